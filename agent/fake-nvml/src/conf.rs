//! The text file: from lines to GPUs and faults. Pure.
//!
//! Comes in: text. Goes out: what the library shows, or the first line that makes no sense.

/// NVLinks of one GPU.
pub const LINKS: usize = 18;
/// GPUs of one node, at most.
const MAX_GPUS: usize = 64;
/// Memory slices of a GPU that is cut.
const MEMORY_SLICES: u32 = 8;
/// The cluster of `topology=nvl72` where no `fabric` says another.
const RACK: [u8; 16] = *b"fake-nvl72-rack0";

/// Everything the file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conf {
    pub driver: String,
    pub seed: Option<String>,
    pub gpus: Vec<Gpu>,
    pub nvlink: Nvlink,
    /// Cluster and clique of a fabric that reaches beyond the node.
    pub fabric: Option<([u8; 16], u32)>,
    /// Two by two on one PCIe switch.
    pub pcie_pairs: bool,
    /// Links that are down: GPU, link.
    pub down: Vec<(usize, usize)>,
    pub lost: Vec<usize>,
    /// GPU, code, count.
    pub xids: Vec<(usize, u64, u64)>,
    /// Function, milliseconds, GPU.
    pub slow: Vec<(String, u64, Option<usize>)>,
    /// Function, code, GPU.
    pub fail: Vec<(String, u32, Option<usize>)>,
}

/// How GPUs are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Nvlink {
    #[default]
    None,
    Switch,
    Islands(usize),
}

/// A MIG instance: one GPU instance with one compute instance over the whole of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mig {
    pub profile: String,
    /// Memory slices.
    pub first: u32,
    pub size: u32,
    pub uuid: Option<String>,
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gpu {
    pub uuid: Option<String>,
    pub model: String,
    pub memory_mib: u64,
    pub used_mib: u64,
    pub util: u32,
    pub power_mw: u32,
    pub temp_c: u32,
    pub sm_mhz: u32,
    pub mem_mhz: u32,
    pub ecc_corrected: u64,
    pub ecc_uncorrected: u64,
    pub throttle: u64,
    pub numa: u32,
    pub mig: u32,
    pub recovery: u32,
    pub remapped: u32,
    pub remap_pending: u32,
    pub remap_failed: u32,
    pub retired_pending: u32,
    pub nvlink_errors: u64,
    /// Memory that CUDA finds; 0: CUDA finds no GPU.
    pub cuda_mib: u64,
    /// The byte of each block whose lowest bit does not hold what is written.
    pub flip: Option<u64>,
    /// Process id, MiB.
    pub processes: Vec<(u32, u64)>,
    pub instances: Vec<Mig>,
}

/// Reads the whole file; an error names the line.
pub fn parse(text: &str) -> Result<Conf, String> {
    let mut conf = Conf { driver: "570.124.06".to_owned(), ..Conf::default() };
    for (number, line) in text.lines().enumerate() {
        let words = words(line);
        if let Some((verb, rest)) = words.split_first() {
            let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
            statement(&mut conf, verb, &rest).map_err(|why| format!("line {}: {why}", number + 1))?;
        }
    }
    Ok(conf)
}

/// Words of a line; double quotes keep spaces together, `#` ends the line.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '"' => (quoted, begun) = (!quoted, true),
            '#' if !quoted => break,
            c if c.is_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

fn number<T: TryFrom<u64>>(word: &str) -> Result<T, String> {
    let parsed = match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => word.parse(),
    };
    let number = parsed.map_err(|_| format!("\"{word}\" is no number"))?;
    T::try_from(number).map_err(|_| format!("{number} is too large"))
}

fn statement(conf: &mut Conf, verb: &str, rest: &[&str]) -> Result<(), String> {
    match (verb, rest) {
        ("driver", [version]) => conf.driver = (*version).to_owned(),
        ("seed", [seed]) => conf.seed = Some((*seed).to_owned()),
        ("gpus", [count, settings @ ..]) => gpus(conf, number(count)?, settings)?,
        ("gpu", [index, settings @ ..]) => {
            let index = known(conf, index)?;
            for setting in settings {
                set(&mut conf.gpus[index], setting)?;
            }
        }
        ("process", [index, pid, mib]) => {
            let index = known(conf, index)?;
            conf.gpus[index].processes.push((number(pid)?, number(mib)?));
        }
        ("mig", [index, profile, first, size]) => mig(conf, index, profile, [first, size], None)?,
        ("mig", [index, profile, first, size, uuid]) => mig(conf, index, profile, [first, size], Some(uuid))?,
        ("fabric", [cluster, clique]) => conf.fabric = Some((uuid_bytes(cluster)?, number(clique)?)),
        ("link", [index, link, "down"]) => conf.down.push((known(conf, index)?, number(link)?)),
        ("lost", [index]) => conf.lost.push(known(conf, index)?),
        ("xid", [index, code, count]) => conf.xids.push((known(conf, index)?, number(code)?, number(count)?)),
        ("slow", [function, ms]) => conf.slow.push(((*function).to_owned(), number(ms)?, None)),
        ("slow", [function, ms, index]) => {
            let index = known(conf, index)?;
            conf.slow.push(((*function).to_owned(), number(ms)?, Some(index)));
        }
        ("fail", [function, code]) => conf.fail.push(((*function).to_owned(), number(code)?, None)),
        ("fail", [function, code, index]) => {
            let index = known(conf, index)?;
            conf.fail.push(((*function).to_owned(), number(code)?, Some(index)));
        }
        _ => return Err(format!("\"{verb}\" with {} words is no statement", rest.len())),
    }
    Ok(())
}

fn known(conf: &Conf, word: &str) -> Result<usize, String> {
    let index = number(word)?;
    if index < conf.gpus.len() { Ok(index) } else { Err(format!("GPU {index} is not there: see the `gpus` line")) }
}

/// A slice that begins where another one lies is no slice.
fn mig(conf: &mut Conf, index: &str, profile: &str, slices: [&str; 2], uuid: Option<&str>) -> Result<(), String> {
    let index = known(conf, index)?;
    let [first, size] = [number::<u32>(slices[0])?, number::<u32>(slices[1])?];
    if size == 0 || first > MEMORY_SLICES || size > MEMORY_SLICES - first {
        return Err(format!("slices {first} to {} are not on a GPU of {MEMORY_SLICES}", first.saturating_add(size)));
    }
    let gpu = &mut conf.gpus[index];
    if let Some(other) =
        gpu.instances.iter().find(|other| first < other.first + other.size && other.first < first + size)
    {
        return Err(format!("{profile} lies over {} at {}", other.profile, other.first));
    }
    gpu.mig = 1;
    gpu.instances.push(Mig { profile: profile.to_owned(), first, size, uuid: uuid.map(str::to_owned) });
    Ok(())
}

/// 32 hexadecimal digits, hyphens anywhere.
fn uuid_bytes(word: &str) -> Result<[u8; 16], String> {
    let digits: String = word.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
    number.map(u128::to_be_bytes).ok_or_else(|| format!("\"{word}\" is no UUID"))
}

fn gpus(conf: &mut Conf, count: usize, settings: &[&str]) -> Result<(), String> {
    if count > MAX_GPUS {
        return Err(format!("{count} GPUs are more than {MAX_GPUS}"));
    }
    let mut gpu = Gpu {
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        memory_mib: 81_559,
        power_mw: 71_000,
        temp_c: 32,
        sm_mhz: 345,
        mem_mhz: 2_619,
        ..Gpu::default()
    };
    conf.nvlink = Nvlink::Switch;
    for setting in settings {
        match setting.split_once('=') {
            Some(("topology", "nvswitch")) => conf.nvlink = Nvlink::Switch,
            Some(("topology", "pcie-pairs")) => (conf.nvlink, conf.pcie_pairs) = (Nvlink::Islands(2), true),
            Some(("topology", "nvl72")) => (conf.nvlink, conf.fabric) = (Nvlink::Switch, Some((RACK, 0))),
            Some(("topology", _)) => return Err("topology is nvswitch, pcie-pairs or nvl72".to_owned()),
            Some(("nvlink", "switch")) => conf.nvlink = Nvlink::Switch,
            Some(("nvlink", "none")) => conf.nvlink = Nvlink::None,
            Some(("nvlink", other)) => {
                let size = other.strip_prefix("islands:").ok_or("nvlink is switch, none or islands:N")?;
                conf.nvlink = Nvlink::Islands(number::<usize>(size)?.clamp(1, LINKS + 1));
            }
            _ => set(&mut gpu, setting)?,
        }
    }
    // The first half of the GPUs is next to the first half of the memory.
    let numa = |index| if 2 * index >= count { 1 } else { 0 };
    conf.gpus = (0..count).map(|index| Gpu { numa: numa(index), ..gpu.clone() }).collect();
    Ok(())
}

fn set(gpu: &mut Gpu, setting: &str) -> Result<(), String> {
    let (name, value) = setting.split_once('=').ok_or_else(|| format!("\"{setting}\" is not name=value"))?;
    match name {
        "uuid" => gpu.uuid = Some(value.to_owned()),
        "model" => gpu.model = value.to_owned(),
        "memory_mib" => gpu.memory_mib = number(value)?,
        "used_mib" => gpu.used_mib = number(value)?,
        "util" => gpu.util = number(value)?,
        "power_mw" => gpu.power_mw = number(value)?,
        "temp_c" => gpu.temp_c = number(value)?,
        "sm_mhz" => gpu.sm_mhz = number(value)?,
        "mem_mhz" => gpu.mem_mhz = number(value)?,
        "ecc_corrected" => gpu.ecc_corrected = number(value)?,
        "ecc_uncorrected" => gpu.ecc_uncorrected = number(value)?,
        "throttle" => gpu.throttle = number(value)?,
        "numa" => gpu.numa = number(value)?,
        "mig" => gpu.mig = number(value)?,
        "recovery" => gpu.recovery = number(value)?,
        "remapped" => gpu.remapped = number(value)?,
        "remap_pending" => gpu.remap_pending = number(value)?,
        "remap_failed" => gpu.remap_failed = number(value)?,
        "retired_pending" => gpu.retired_pending = number(value)?,
        "cuda_mib" => gpu.cuda_mib = number(value)?,
        "flip" => gpu.flip = Some(number(value)?),
        "nvlink_errors" => gpu.nvlink_errors = number(value)?,
        _ => return Err(format!("a GPU has no \"{name}\"")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_is_understood() {
        let conf = parse(
            "driver 1.2  # a comment\nseed s\n\ngpus 4 model=\"A 100\" memory_mib=100 nvlink=islands:2\n\
             gpu 3 util=97 throttle=0x8 uuid=GPU-x\nprocess 3 42 7\nlost 2\nxid 1 79 2\n\
             slow * 5\nfail nvmlInit_v2 9\nfail nvmlDeviceGetName 3 1\n",
        )
        .expect("is understood");
        assert_eq!((conf.driver.as_str(), conf.seed.as_deref(), conf.gpus.len()), ("1.2", Some("s"), 4));
        assert_eq!(conf.gpus[0], Gpu { model: "A 100".to_owned(), memory_mib: 100, ..conf.gpus[1].clone() });
        assert_eq!((conf.gpus[3].util, conf.gpus[3].throttle, conf.gpus[3].numa), (97, 8, 1));
        assert_eq!(conf.gpus[3].processes, [(42, 7)]);
        assert_eq!((conf.nvlink, conf.lost, conf.xids), (Nvlink::Islands(2), vec![2], vec![(1, 79, 2)]));
        assert_eq!(conf.slow, [("*".to_owned(), 5, None)]);
        assert_eq!(conf.fail[1], ("nvmlDeviceGetName".to_owned(), 3, Some(1)));
    }

    #[test]
    fn an_error_names_the_line() {
        assert_eq!(parse("gpus 1\nlost 1"), Err("line 2: GPU 1 is not there: see the `gpus` line".to_owned()));
        assert_eq!(parse("nonsense"), Err("line 1: \"nonsense\" with 0 words is no statement".to_owned()));
        assert_eq!(parse("gpus 2 colour=red"), Err("line 1: a GPU has no \"colour\"".to_owned()));
        assert_eq!(
            parse("gpus 1\nmig 0 3g.40gb 5 4").err().as_deref(),
            Some("line 2: slices 5 to 9 are not on a GPU of 8")
        );
        let over = parse("gpus 1\nmig 0 3g.40gb 4 4\nmig 0 1g.10gb 6 1");
        assert_eq!(over, Err("line 3: 1g.10gb lies over 3g.40gb at 4".to_owned()));
        assert_eq!(parse("fabric x 0"), Err("line 1: \"x\" is no UUID".to_owned()));
        assert_eq!(parse("gpus 1 topology=ring"), Err("line 1: topology is nvswitch, pcie-pairs or nvl72".to_owned()));
        assert_eq!(parse("gpus x"), Err("line 1: \"x\" is no number".to_owned()));
    }
}
