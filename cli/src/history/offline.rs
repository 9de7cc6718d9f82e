//! The history's file itself: made anew from the journal, or taken from the scheduler that leads.

use std::{fs::File, io::Write as _, path::Path};

use dure_proto::v1::CopyHistoryRequest;
use dure_scheduler::{
    history::{self, Historian, HistoryStore, Refusals, Retention},
    journal::{EmbeddedEngine, Engine as _, JournalReader, OpenOptions, Reader},
};

use crate::{context::Context, failure::Failure};

fn failed(err: impl std::fmt::Display) -> Failure {
    Failure::Failed(err.to_string())
}

/// `dure history rebuild`.
pub(crate) fn rebuild(data_dir: &Path, forget_older: bool) -> Result<(), Failure> {
    let journal = data_dir.join("journal");
    // Nobody leads meanwhile, and what is read is proven.
    let engine = EmbeddedEngine::open(&journal, OpenOptions::default()).map_err(failed)?;
    let reader: Box<dyn Reader> = Box::new(JournalReader::open(&journal).map_err(failed)?);
    if let Some(beginning) = reader.beginning().map_err(failed)?
        && !forget_older
    {
        return Err(Failure::Failed(format!(
            "the journal goes back to position {} only: what the history holds of before would be lost. Name --forget-older to \
             make it anew all the same",
            beginning.seq + 1
        )));
    }
    let path = HistoryStore::path_in(data_dir);
    let store = HistoryStore::open(&path, &format!("{:?}", engine.store_id())).map_err(failed)?;
    // Retention is the running scheduler's business: whatever it removes goes at its next day.
    let mut historian = Historian::new(store, Retention::standard(), Refusals::default()).map_err(failed)?;
    historian.clear().map_err(failed)?;
    history::catch_up(&mut historian, &reader, dure_core::Policy::standard()).map_err(failed)?;
    println!("{}: made anew up to position {}", path.display(), historian.position());
    Box::new(engine).close().map(drop).map_err(failed)
}

/// `dure history fetch`.
pub(super) async fn fetch(data_dir: &Path, context: &Context) -> Result<(), Failure> {
    let path = HistoryStore::path_in(data_dir);
    if path.exists() {
        let why = "there is a history already: move it away first";
        return Err(Failure::Failed(format!("{}: {why}", path.display())));
    }
    let folder = path.parent().unwrap_or(data_dir);
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut client = context.history().await?;
    let mut chunks = client.copy(CopyHistoryRequest {}).await.map_err(|status| context.refused(status))?.into_inner();
    let part = path.with_extension("part");
    let mut file = File::create(&part).map_err(failed)?;
    while let Some(chunk) = chunks.message().await.map_err(|status| context.refused(status))? {
        file.write_all(&chunk.data).map_err(failed)?;
    }
    file.sync_all().and_then(|()| std::fs::rename(&part, &path)).map_err(failed)?;
    println!("{}: taken; a scheduler that starts here goes on from it", path.display());
    Ok(())
}
