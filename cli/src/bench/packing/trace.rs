//! The openb files: nodes, pods and arrival orders, plain or gzipped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use dure_core::gpu::{GpuSet, MAX_GPUS_PER_NODE};
use dure_core::ids::{NodeIndex, PoolIndex};
use dure_core::node::{Capacity, Contact, Location, Node, Residents, SetAside};
use dure_core::parts::{Parts, WHOLE};
use dure_core::request::{Part, Request, Shape};
use dure_core::units::{CpuMilli, MemoryMib, Time};

use super::super::failed;
use crate::failure::Failure;

/// The cluster of a trace. A pool is the nodes of one model and number of GPUs.
pub(super) struct Nodes {
    /// In the order of their names.
    pub(super) list: Vec<Node>,
    /// The pools of each model.
    pools: BTreeMap<String, Vec<PoolIndex>>,
    count: usize,
}

/// The first bytes of a gzipped file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

fn reader(path: &Path) -> Result<csv::Reader<Box<dyn Read>>, Failure> {
    let wrong = |err: std::io::Error| failed(format!("{}: {err}", path.display()));
    let mut magic = Vec::new();
    File::open(path).map_err(wrong)?.take(2).read_to_end(&mut magic).map_err(wrong)?;
    let file = File::open(path).map_err(wrong)?;
    let plain: Box<dyn Read> =
        if magic == GZIP { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok(csv::Reader::from_reader(plain))
}

/// Columns by name, and what to say of a line.
struct Lines<'p> {
    path: &'p Path,
    reader: csv::Reader<Box<dyn Read>>,
    header: csv::StringRecord,
}

impl<'p> Lines<'p> {
    fn open(path: &'p Path) -> Result<Self, Failure> {
        let mut reader = reader(path)?;
        let header = reader.headers().map_err(|err| failed(format!("{}: {err}", path.display())))?.clone();
        Ok(Self { path, reader, header })
    }

    fn column(&self, name: &str) -> Result<usize, Failure> {
        let known = || self.header.iter().collect::<Vec<_>>().join(", ");
        self.header.iter().position(|column| column == name).ok_or_else(|| {
            failed(format!("{}: there is no column {name:?}, there is {}", self.path.display(), known()))
        })
    }

    fn each(mut self, mut line: impl FnMut(&csv::StringRecord, &str) -> Result<(), Failure>) -> Result<(), Failure> {
        for (number, record) in self.reader.records().enumerate() {
            let place = format!("{}:{}", self.path.display(), number + 2);
            let record = record.map_err(|err| failed(format!("{place}: {err}")))?;
            line(&record, &place)?;
        }
        Ok(())
    }
}

fn number(record: &csv::StringRecord, column: usize, place: &str) -> Result<u64, Failure> {
    let text = record.get(column).unwrap_or_default();
    text.parse().map_err(|_| failed(format!("{place}: {text:?} is no whole number")))
}

/// Reads the node list.
pub(super) fn nodes(path: &Path) -> Result<Nodes, Failure> {
    let lines = Lines::open(path)?;
    let [name, cpu, memory, gpus, model] = ["sn", "cpu_milli", "memory_mib", "gpu", "model"].map(|c| lines.column(c));
    let (name, cpu, memory, gpus, model) = (name?, cpu?, memory?, gpus?, model?);
    let mut found = Vec::new();
    lines.each(|record, place| {
        let count = number(record, gpus, place)?;
        if !(1..=MAX_GPUS_PER_NODE as u64).contains(&count) {
            return Err(failed(format!("{place}: a node of {count} GPUs; it must have 1 to {MAX_GPUS_PER_NODE}")));
        }
        let text = |column| record.get(column).unwrap_or_default().to_owned();
        found.push((text(name), text(model), count, number(record, cpu, place)?, number(record, memory, place)?));
        Ok(())
    })?;
    // Ties go to the lowest node, which is the smallest name.
    found.sort_unstable();
    let mut pools: BTreeMap<(String, u64), PoolIndex> = BTreeMap::new();
    for (_, model, count, _, _) in &found {
        let next = PoolIndex::of(pools.len());
        pools.entry((model.clone(), *count)).or_insert(next);
    }
    let list = found.iter().enumerate().map(|(at, (name, model, count, cpu, memory))| {
        let pool = pools[&(model.clone(), *count)];
        node(NodeIndex::of(at), name, pool, *count as usize, CpuMilli(*cpu), MemoryMib(*memory))
    });
    let list = list.collect();
    let count = pools.len();
    let mut by_model: BTreeMap<String, Vec<PoolIndex>> = BTreeMap::new();
    for ((model, _), pool) in pools {
        by_model.entry(model).or_default().push(pool);
    }
    Ok(Nodes { list, pools: by_model, count })
}

fn node(index: NodeIndex, name: &str, pool: PoolIndex, gpus: usize, cpu: CpuMilli, memory: MemoryMib) -> Node {
    let gpus = GpuSet::first(gpus);
    Node {
        index,
        name: name.into(),
        pool,
        location: Location::default(),
        capacity: Capacity {
            gpus,
            islands: gpus.iter().map(|_| gpus).collect(),
            layouts: Box::default(),
            cpu,
            memory,
            labels: Box::default(),
        },
        boot_id: "".into(),
        contact: Contact::Ready,
        contact_since: Time(0),
        cordoned: false,
        draining: false,
        spare: false,
        booked: Default::default(),
        bad: GpuSet::EMPTY,
        taken: GpuSet::EMPTY,
        parts: Parts::default(),
        cpu_taken: CpuMilli::ZERO,
        memory_taken: MemoryMib::ZERO,
        residents: Residents::new(),
        promised: SetAside::default(),
        reserved: SetAside::default(),
    }
}

/// Reads the pod list.
pub(super) fn pods(path: &Path, nodes: &Nodes) -> Result<Vec<Request>, Failure> {
    let lines = Lines::open(path)?;
    let [cpu, memory, count, milli] = ["cpu_milli", "memory_mib", "num_gpu", "gpu_milli"].map(|c| lines.column(c));
    let (cpu, memory, count, milli) = (cpu?, memory?, count?, milli?);
    let models = lines.column("gpu_spec").ok();
    let mut pods = Vec::new();
    lines.each(|record, place| {
        let (gpus, milli) = (number(record, count, place)?, number(record, milli, place)?);
        let part = match (gpus, milli) {
            (1, 1..=999) => Part::Milli(milli as u16),
            (0, _) => Part::Whole,
            (1..=32, _) if milli == u64::from(WHOLE) => Part::Whole,
            _ => return Err(failed(format!("{place}: {gpus} GPUs of {milli} thousandths"))),
        };
        pods.push(Request {
            shape: Shape::Equal { members: 1, gpus: gpus as u8 },
            part,
            pools: nodes.pools_of(models.and_then(|column| record.get(column)).unwrap_or_default()),
            cpu: CpuMilli(number(record, cpu, place)?),
            memory: MemoryMib(number(record, memory, place)?),
            required: None,
            preferred: None,
            distinct_nodes: false,
            only: dure_core::request::Constraints::default(),
        });
        Ok(())
    })?;
    Ok(pods)
}

impl Nodes {
    /// The pools of the models in a list separated by `|`; all for an empty one.
    fn pools_of(&self, models: &str) -> Box<[PoolIndex]> {
        if models.is_empty() {
            return (0..self.count).map(PoolIndex::of).collect();
        }
        let mut pools: Vec<PoolIndex> =
            models.split('|').filter_map(|model| self.pools.get(model)).flatten().copied().collect();
        pools.sort_unstable();
        pools.dedup();
        pools.into()
    }
}

/// Reads one order of arrivals: rows of the pod list.
pub(super) fn arrivals(path: &Path, column: &str, pods: usize) -> Result<Vec<usize>, Failure> {
    let lines = Lines::open(path)?;
    let at = lines.column(column)?;
    let mut order = Vec::new();
    lines.each(|record, place| {
        // Columns end where their order does.
        if record.get(at).is_none_or(str::is_empty) {
            return Ok(());
        }
        let row = number(record, at, place)?;
        if row >= pods as u64 {
            return Err(failed(format!("{place}: row {row} of a pod list of {pods}")));
        }
        order.push(row as usize);
        Ok(())
    })?;
    Ok(order)
}
