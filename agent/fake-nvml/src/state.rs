//! What the library knows between calls: the file as it was last read, and the event sets.
//!
//! Comes in: a function's name, and the GPU it is about. Goes out: the file's word for it, after the faults of the file
//! have had theirs. This part must never sleep while it holds the lock.

use std::{
    collections::BTreeMap,
    ffi::{CStr, OsStr, c_void},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    abi::{
        Device, DlInfo, GPU_IS_LOST, INVALID_ARGUMENT, NOT_FOUND, Return, SUCCESS, TIMEOUT, UNINITIALIZED, UNKNOWN,
        dladdr,
    },
    conf::{Conf, Gpu, parse},
};

/// How often a waiting event set looks at the file.
const EVENT_LOOK: Duration = Duration::from_millis(10);

/// Inode, size and time of change of the file that was read.
type Stamp = (u64, u64, i64, i64);

pub struct State {
    initialized: u32,
    path: PathBuf,
    stamp: Option<Stamp>,
    conf: Result<Conf, String>,
    sets: Vec<Option<EventSet>>,
}

#[derive(Default)]
struct EventSet {
    /// GPUs that are registered, with what was delivered or was there before, by code.
    gpus: BTreeMap<usize, BTreeMap<u64, u64>>,
}

static STATE: Mutex<State> =
    Mutex::new(State { initialized: 0, path: PathBuf::new(), stamp: None, conf: Err(String::new()), sets: Vec::new() });

fn lock() -> MutexGuard<'static, State> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    state.refresh();
    state
}

/// The file of this very library.
fn conf_path() -> PathBuf {
    let mut info = DlInfo {
        file_name: std::ptr::null(),
        file_base: std::ptr::null_mut(),
        symbol_name: std::ptr::null(),
        symbol_address: std::ptr::null_mut(),
    };
    let own: fn() -> PathBuf = conf_path;
    // WHY: only the loader knows where this copy of the library lies.
    // SAFETY: the address is one of our own functions, `info` is writable; dladdr returns 0 or fills it.
    let found = unsafe { dladdr(own as *const c_void, &mut info) };
    if found == 0 || info.file_name.is_null() {
        return PathBuf::new();
    }
    // WHY: the name comes as a C string.
    // SAFETY: not null, zero-terminated, and alive as long as the library is loaded, which it is while it runs.
    let name = unsafe { CStr::from_ptr(info.file_name) };
    let mut path = OsStr::from_bytes(name.to_bytes()).to_owned();
    path.push(".conf");
    PathBuf::from(path)
}

impl State {
    /// Reads the file again when it has changed.
    fn refresh(&mut self) {
        if self.path.as_os_str().is_empty() {
            self.path = conf_path();
        }
        let stamp =
            fs::metadata(&self.path).ok().map(|meta| (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()));
        // A file that has vanished changes nothing: what it said last stands.
        if self.stamp.is_some() && (stamp == self.stamp || stamp.is_none()) {
            return;
        }
        self.stamp = stamp;
        let read = fs::read_to_string(&self.path).map_err(|err| err.to_string());
        let conf = read.and_then(|text| parse(&text));
        // Once per fault, not once per call.
        if let Err(why) = &conf
            && conf != self.conf
        {
            eprintln!("fake-nvml: {}: {why}", self.path.display());
        }
        self.conf = conf;
    }

    /// UUID of a GPU: what the file says, or made from the seed so that it is the same every time.
    pub fn uuid(&self, index: usize) -> String {
        let Ok(conf) = &self.conf else { return String::new() };
        if let Some(uuid) = conf.gpus.get(index).and_then(|gpu| gpu.uuid.clone()) {
            return uuid;
        }
        format!("GPU-{}", self.uuid_of(&index.to_string()))
    }

    /// The UUID, without its kind, of a part of the node.
    pub fn uuid_of(&self, part: &str) -> String {
        let seed = self.conf.as_ref().ok().and_then(|conf| conf.seed.clone());
        let seed = seed.unwrap_or_else(|| self.path.display().to_string());
        let [high, low] = [1_u64, 2].map(|half| fnv(&format!("{seed}/{part}/{half}")));
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}

/// FNV-1a, 64 bits.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

pub fn to_index(device: Device) -> Option<usize> {
    (device as usize).checked_sub(1)
}

pub fn to_device(index: usize) -> Device {
    (index + 1) as Device
}

/// What the file's faults say about this call, after the time it shall take.
fn faults(function: &str, gpu: Option<usize>) -> Return {
    let (code, slow) = {
        let state = lock();
        let Ok(conf) = &state.conf else { return UNKNOWN };
        let named = |name: &str| name == "*" || name == function;
        let about = |only: &Option<usize>| only.is_none() || *only == gpu;
        let slow = conf.slow.iter().filter(|(name, _, only)| named(name) && about(only));
        let slow: u64 = slow.map(|(_, ms, _)| ms).sum();
        let fail = conf.fail.iter().find(|(name, _, only)| named(name) && about(only)).map(|(_, code, _)| *code);
        (fail.unwrap_or(SUCCESS), slow)
    };
    if slow > 0 {
        sleep(Duration::from_millis(slow));
    }
    code
}

/// The GPU that CUDA sees, after the faults of the file have had their word about this call; none: it sees no GPU.
pub fn visible(function: &str) -> Result<Option<(usize, Gpu)>, Return> {
    let named = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let found = {
        let state = lock();
        let Ok(conf) = &state.conf else { return Err(UNKNOWN) };
        let is_named = |index: &usize| named.is_empty() || state.uuid(*index) == named;
        let index = (0..conf.gpus.len()).find(is_named);
        index.map(|index| (index, conf.gpus[index].clone())).filter(|(_, gpu)| gpu.cuda_mib > 0)
    };
    match faults(function, found.as_ref().map(|(index, _)| *index)) {
        SUCCESS => Ok(found),
        code => Err(code),
    }
}

/// A call about the whole node.
pub fn node(function: &str, answer: impl FnOnce(&State, &Conf) -> Return) -> Return {
    let code = faults(function, None);
    if code != SUCCESS {
        return code;
    }
    let state = lock();
    match &state.conf {
        _ if state.initialized == 0 => UNINITIALIZED,
        Ok(conf) => answer(&state, conf),
        Err(_) => UNKNOWN,
    }
}

/// A call about one GPU.
pub fn gpu(function: &str, device: Device, answer: impl FnOnce(&State, &Conf, usize, &Gpu) -> Return) -> Return {
    let Some(index) = to_index(device) else { return INVALID_ARGUMENT };
    let code = faults(function, Some(index));
    if code != SUCCESS {
        return code;
    }
    let state = lock();
    let Ok(conf) = &state.conf else { return UNKNOWN };
    if state.initialized == 0 {
        return UNINITIALIZED;
    }
    match conf.gpus.get(index) {
        None => INVALID_ARGUMENT,
        Some(_) if conf.lost.contains(&index) => GPU_IS_LOST,
        Some(gpu) => answer(&state, conf, index, gpu),
    }
}

pub fn init(function: &str) -> Return {
    let code = faults(function, None);
    if code == SUCCESS {
        lock().initialized += 1;
    }
    code
}

pub fn shutdown() -> Return {
    let mut state = lock();
    if state.initialized == 0 {
        return UNINITIALIZED;
    }
    state.initialized -= 1;
    SUCCESS
}

pub fn create_set() -> usize {
    let mut state = lock();
    state.sets.push(Some(EventSet::default()));
    state.sets.len()
}

pub fn free_set(handle: usize) -> Return {
    match handle.checked_sub(1).and_then(|set| lock().sets.get_mut(set).map(Option::take)) {
        Some(Some(_)) => SUCCESS,
        _ => INVALID_ARGUMENT,
    }
}

/// What happened before counts as delivered.
pub fn register(handle: usize, gpu: usize) -> Return {
    let mut state = lock();
    let past: BTreeMap<u64, u64> = match &state.conf {
        Ok(conf) => {
            conf.xids.iter().filter(|(index, ..)| *index == gpu).map(|(_, code, count)| (*code, *count)).collect()
        }
        Err(_) => return UNKNOWN,
    };
    let set = handle.checked_sub(1).and_then(|set| state.sets.get_mut(set)?.as_mut());
    match set {
        Some(set) => {
            set.gpus.insert(gpu, past);
            SUCCESS
        }
        None => INVALID_ARGUMENT,
    }
}

/// The next XID of a registered GPU, with the GPU's index.
pub fn wait(handle: usize, timeout: Duration) -> Result<(usize, u64), Return> {
    let code = faults("nvmlEventSetWait_v2", None);
    if code != SUCCESS {
        return Err(code);
    }
    let end = Instant::now() + timeout;
    loop {
        if let Some(event) = take(handle)? {
            return Ok(event);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(TIMEOUT);
        }
        sleep(left.min(EVENT_LOOK));
    }
}

fn take(handle: usize) -> Result<Option<(usize, u64)>, Return> {
    let mut state = lock();
    let state = &mut *state;
    let Ok(conf) = &state.conf else { return Err(UNKNOWN) };
    let set = handle.checked_sub(1).and_then(|set| state.sets.get_mut(set)?.as_mut()).ok_or(NOT_FOUND)?;
    for (index, code, count) in &conf.xids {
        let Some(delivered) = set.gpus.get_mut(index) else { continue };
        let delivered = delivered.entry(*code).or_default();
        if *delivered < *count {
            *delivered += 1;
            return Ok(Some((*index, *code)));
        }
    }
    Ok(None)
}
