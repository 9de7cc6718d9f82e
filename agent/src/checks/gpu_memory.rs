//! The test of GPU memory: patterns are written over a share of it and read back.
//!
//! Comes in: the GPUs that nothing runs on, and how much time and memory it may take. Goes out: for each GPU that it is well,
//! what does not hold, or why it was not tested. Each GPU is tested by a process of its own (`dure shim --gpu-memory`): CUDA
//! makes threads and takes memory, and a driver that hangs takes the process with it, not the agent.
//! It must never be run beside a member, nor take longer than its limit.

use std::{
    ffi::{OsStr, OsString},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::LOOK;
use crate::{
    inventory::GpuFacts,
    sys::cuda::{self, Block, CudaError, Gpu},
};

/// The word after `shim` with which it tests the GPU that it sees.
pub(crate) const WORD: &str = "--gpu-memory";
/// Bytes of one allocation.
const BLOCK: usize = 1 << 30;
/// Bytes of one write or read.
const CHUNK: usize = 16 << 20;
/// What is written over each word, beside its number: every bit is 0 once and 1 once.
const PATTERNS: [u64; 2] = [0xaaaa_aaaa_aaaa_aaaa, 0x5555_5555_5555_5555];
/// Beyond its limit a test that hangs is ended after this.
const MARGIN: Duration = Duration::from_secs(10);
/// Bytes of a test's words that are read.
const MAX_WORDS: u64 = 4_096;

/// What a test found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tested {
    /// So many MiB hold what is written.
    Well {
        /// How much was tested.
        mib: u64,
    },
    /// It must not be used, and why.
    Bad(String),
    /// It was not tested, and why.
    Skipped(String),
}

/// How much a test may take.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// CUDA's library.
    pub(crate) library: PathBuf,
    /// Of the GPU's memory, in percent.
    pub(crate) percent: u8,
    /// Longest time.
    pub(crate) limit: Duration,
}

/// Tests GPUs, all at once, each in a process of its own. Blocking, for no longer than the limit and a margin.
pub(crate) fn test_all(shim: &[OsString], bounds: &Bounds, gpus: &[GpuFacts], busy: &[u32]) -> Vec<(u32, Tested)> {
    let begun: Vec<(u32, Result<Child, Tested>)> =
        gpus.iter().map(|gpu| (gpu.index, begin(shim, bounds, gpu, busy))).collect();
    let give_up = Instant::now() + bounds.limit + MARGIN;
    begun
        .into_iter()
        .map(|(index, child)| (index, child.map_or_else(|early| early, |child| end(child, give_up))))
        .collect()
}

fn begin(shim: &[OsString], bounds: &Bounds, gpu: &GpuFacts, busy: &[u32]) -> Result<Child, Tested> {
    let skipped = |why: &str| Err(Tested::Skipped(why.to_owned()));
    if gpu.uuid.is_empty() {
        return skipped("it cannot be read");
    }
    if gpu.mig {
        return skipped("it is cut into MIG instances");
    }
    if busy.contains(&gpu.index) {
        return skipped("a member runs on it");
    }
    let Some((program, args)) = shim.split_first() else { return skipped("there is no program for it") };
    let mut command = Command::new(program);
    command.args(args).arg(WORD).arg(&bounds.library).arg(bounds.percent.to_string());
    command.arg(bounds.limit.as_millis().to_string()).env("CUDA_VISIBLE_DEVICES", &gpu.uuid).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().map_err(|err| Tested::Skipped(format!("its test cannot be started: {err}")))
}

/// Waits for the process, and ends it when it takes too long.
fn end(mut child: Child, give_up: Instant) -> Tested {
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < give_up => sleep(LOOK),
            Ok(None) | Err(_) => {
                // A process in the driver may not even die: it is left to the kernel then.
                let _ = child.kill();
                return Tested::Bad("the test of its memory did not end: CUDA hangs on it".to_owned());
            }
        }
    }
    let mut words = String::new();
    let read = child.stdout.take().map(|out| out.take(MAX_WORDS).read_to_string(&mut words));
    match words.trim().split_once(' ') {
        Some(("well", mib)) => Tested::Well { mib: mib.parse().unwrap_or(0) },
        Some(("bad", why)) => Tested::Bad(why.to_owned()),
        Some(("skipped", why)) => Tested::Skipped(why.to_owned()),
        _ => Tested::Bad(format!("the test of its memory broke off ({:?}, {read:?})", child.wait())),
    }
}

/// `dure shim --gpu-memory LIBRARY PERCENT LIMIT_MS`: tests the one GPU that it sees and says one line.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let number = |word: &OsStr| word.to_str().and_then(|word| word.parse::<u64>().ok());
    let [library, percent, limit] = args else { return ExitCode::from(2) };
    let (Some(percent), Some(limit)) = (number(percent), number(limit)) else { return ExitCode::from(2) };
    let percent = u8::try_from(percent.min(100)).unwrap_or(100);
    match test(Path::new(library), percent, Duration::from_millis(limit)) {
        Tested::Well { mib } => println!("well {mib}"),
        Tested::Bad(why) => println!("bad {why}"),
        Tested::Skipped(why) => println!("skipped {why}"),
    }
    ExitCode::SUCCESS
}

/// Tests the first GPU that CUDA shows.
pub(crate) fn test(library: &Path, percent: u8, limit: Duration) -> Tested {
    let gpu = match Gpu::load(library) {
        Ok(gpu) => gpu,
        Err(why) => return Tested::Skipped(format!("CUDA's library cannot be loaded: {why}")),
    };
    match gpu.open().and_then(|()| over(&gpu, percent, limit)) {
        Ok(tested) => tested,
        Err(error @ CudaError { code: cuda::NO_DEVICE | cuda::UNAVAILABLE | -1, .. }) => {
            Tested::Skipped(format!("CUDA does not give it: {error}"))
        }
        Err(error) => Tested::Bad(format!("the test of its memory failed: {error}")),
    }
}

fn over(gpu: &Gpu, percent: u8, limit: Duration) -> Result<Tested, CudaError> {
    let begun = Instant::now();
    let (free, total) = gpu.memory()?;
    let share = total.saturating_mul(usize::from(percent)) / 100;
    let want = share.min(free / 10 * 9) / CHUNK * CHUNK;
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut held = 0;
    while held < want {
        match gpu.alloc(BLOCK.min(want - held)) {
            Ok(block) => {
                held += block.bytes();
                blocks.push(block);
            }
            // What is free lies in pieces: those that there are will do.
            Err(CudaError { code: cuda::OUT_OF_MEMORY, .. }) => break,
            Err(error) => return Err(error),
        }
    }
    if blocks.is_empty() {
        return Ok(Tested::Skipped(format!("{} MiB of its memory are free: too little", free >> 20)));
    }
    let mut least = held;
    for (round, pattern) in (1..).zip(PATTERNS) {
        // Half of each round's time is for writing: what was not written is not read.
        let ends = limit * round / 2;
        let written = each_chunk(&blocks, |block, at, first, words| {
            if begun.elapsed() + limit / 4 > ends {
                return Ok(None);
            }
            words.iter_mut().zip(first..).for_each(|(word, number)| *word = pattern ^ number);
            block.write(at, words).map(|()| Some(true))
        })?;
        let mut wrong = None;
        let read = each_chunk(&blocks, |block, at, first, words| {
            if first * 8 >= written.bytes as u64 || begun.elapsed() > ends {
                return Ok(None);
            }
            block.read(at, words)?;
            wrong =
                words.iter().zip(first..).find(|(word, number)| **word != pattern ^ number).map(|(_, number)| number);
            Ok(Some(wrong.is_none()))
        })?;
        if let Some(number) = wrong {
            let at = (number * 8) >> 20;
            return Ok(Tested::Bad(format!(
                "its memory does not hold what is written (MiB {at} of {} tested)",
                held >> 20
            )));
        }
        least = least.min(read.bytes);
    }
    match least as u64 >> 20 {
        0 => Ok(Tested::Skipped(format!("{} ms are too short for it", limit.as_millis()))),
        mib => Ok(Tested::Well { mib }),
    }
}

/// How far it went.
struct Gone {
    bytes: usize,
}

/// Goes over all blocks chunk by chunk, with the byte in the block, the number of the chunk's first word and room for its
/// words, until it is told to stop (none, or false).
fn each_chunk(
    blocks: &[Block<'_>],
    mut each: impl FnMut(&Block<'_>, usize, u64, &mut [u64]) -> Result<Option<bool>, CudaError>,
) -> Result<Gone, CudaError> {
    let mut words = vec![0_u64; CHUNK / 8];
    let mut gone = Gone { bytes: 0 };
    for block in blocks {
        for at in (0..block.bytes()).step_by(CHUNK) {
            let count = CHUNK.min(block.bytes() - at) / 8;
            match each(block, at, gone.bytes as u64 / 8, &mut words[..count])? {
                Some(true) => gone.bytes += count * 8,
                Some(false) | None => return Ok(gone),
            }
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    fn on(conf: &str, limit: Duration) -> Tested {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let library = fake::write_library(dir.path(), conf).expect("writes");
        test(&library, 50, limit)
    }

    #[test]
    fn good_memory_is_well_and_a_bit_that_does_not_hold_is_found() {
        let long = Duration::from_secs(60);
        assert_eq!(on("gpus 1 cuda_mib=128", long), Tested::Well { mib: 64 });
        // A byte whose lowest bit is turned, in the second chunk.
        let Tested::Bad(why) = on("gpus 1 cuda_mib=128 flip=20971520", long) else { panic!("it was not found") };
        assert_eq!(why, "its memory does not hold what is written (MiB 20 of 64 tested)");
    }

    #[test]
    fn errors_of_cuda_are_bad_and_what_is_not_there_is_skipped() {
        let long = Duration::from_secs(60);
        let Tested::Bad(why) = on("gpus 1 cuda_mib=128\nfail cuMemcpyDtoH_v2 214", long) else { panic!("it is bad") };
        assert_eq!(why, "the test of its memory failed: cuMemcpyDtoH_v2: CUDA_ERROR_ECC_UNCORRECTABLE (214)");
        let Tested::Skipped(why) = on("gpus 1", long) else { panic!("CUDA sees none") };
        assert_eq!(why, "CUDA does not give it: cuInit: CUDA_ERROR_NO_DEVICE (100)");
        let Tested::Skipped(why) = on("gpus 1 cuda_mib=8", long) else { panic!("it is too small") };
        assert_eq!(why, "8 MiB of its memory are free: too little");
        let Tested::Skipped(why) = test(Path::new("/nowhere/libcuda.so.1"), 50, long) else { panic!("there is none") };
        assert!(why.starts_with("CUDA's library cannot be loaded: "), "{why}");
    }

    #[test]
    fn a_test_out_of_time_says_how_far_it_came() {
        let slow = "gpus 1 cuda_mib=2048\nslow cuMemcpyHtoD_v2 40";
        let Tested::Well { mib } = on(slow, Duration::from_millis(1_200)) else { panic!("what was tested is well") };
        assert!((16..1_000).contains(&mib), "{mib}");
    }
}
