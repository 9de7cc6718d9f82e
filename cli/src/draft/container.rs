//! What a job asks of containers, in the words of `dure submit` (and of pyxis, which scripts of Slurm use).
//!
//! Comes in: flags. Goes out: the container of the API. Whether the image is there is the agents' to find out.

use clap::Args;
use dure_proto::v1;

/// The image, and what is seen inside it; absent: not said.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Container {
    /// Run inside this image: a folder with a root file system, an OCI bundle, or a tar archive of either
    #[arg(long = "container", visible_alias = "container-image", value_name = "PATH", help_heading = "Container")]
    pub(crate) image: Option<String>,
    /// Paths of the node inside the container: SRC[:DST[:ro]]
    #[arg(long = "container-mount", visible_alias = "container-mounts", value_parser = mount, value_delimiter = ',',
        value_name = "SRC[:DST[:ro]],..", help_heading = "Container")]
    pub(crate) mounts: Vec<v1::Mount>,
    /// Let files of the image be written; what is written is lost at the end
    #[arg(long = "container-writable", help_heading = "Container")]
    pub(crate) writable: bool,
    /// Run the image's own entry point, with the command as its arguments
    #[arg(long = "container-entrypoint", help_heading = "Container")]
    pub(crate) entrypoint: bool,
}

impl Container {
    /// One statement: whoever names the image says what is seen in it.
    pub(crate) fn over(self, under: Self) -> Self {
        if self.image.is_some() { self } else { under }
    }

    /// The container of the API; none where no image is named.
    pub(crate) fn to_wire(&self) -> Result<Option<v1::Container>, String> {
        let Some(image) = self.image.clone() else {
            let beside = !self.mounts.is_empty() || self.writable || self.entrypoint;
            return if beside {
                Err("--container-...: name the image with --container PATH".to_owned())
            } else {
                Ok(None)
            };
        };
        let Self { mounts, writable, entrypoint, .. } = self.clone();
        Ok(Some(v1::Container { image, mounts, writable, entrypoint }))
    }
}

/// Reads `/data`, `/data:/mnt`, `/data:/mnt:ro`.
pub(crate) fn mount(text: &str) -> Result<v1::Mount, String> {
    let wrong = |why: &str| format!("{text:?}: {why}: write /data, /data:/mnt or /data:/mnt:ro");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [source] => (source, source, "rw"),
        [source, target] => (source, target, "rw"),
        [source, target, mode] => (source, target, mode),
        _ => return Err(wrong("too many parts")),
    };
    let read_only = match mode {
        "ro" => true,
        "rw" => false,
        _ => return Err(wrong("it is mounted ro or rw")),
    };
    if !source.starts_with('/') || !target.starts_with('/') {
        return Err(wrong("paths are absolute"));
    }
    Ok(v1::Mount { source: source.to_owned(), target: target.to_owned(), read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_and_errors_say_how_to_write_them() {
        let read = |text: &str| mount(text).map(|it| (it.source, it.target, it.read_only));
        assert_eq!(read("/data"), Ok(("/data".to_owned(), "/data".to_owned(), false)));
        assert_eq!(read("/data:/mnt:ro"), Ok(("/data".to_owned(), "/mnt".to_owned(), true)));
        for wrong in ["data", "/data:mnt", "/data:/mnt:rx", "/a:/b:ro:x"] {
            assert!(read(wrong).is_err_and(|why| why.contains("/data:/mnt:ro")), "{wrong}");
        }
    }

    #[test]
    fn a_mount_without_an_image_is_refused() {
        let alone = Container { writable: true, ..Container::default() };
        assert!(alone.to_wire().expect_err("no image").contains("--container PATH"));
        assert_eq!(Container::default().to_wire(), Ok(None));
    }
}
