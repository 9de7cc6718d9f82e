//! The GPUs of a row as a gang: full nodes and one for the rest, unless the row says on how many nodes it ran.

use dure_core::request::Shape;
use dure_core::units::{CpuMilli, MemoryMib};

use crate::trace::TraceJob;

/// A gang, and what each member needs beside its GPUs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gang {
    /// The members.
    pub shape: Shape,
    /// Every member on a node of its own.
    pub distinct_nodes: bool,
    /// CPU of each member.
    pub cpu: CpuMilli,
    /// Memory of each member.
    pub memory: MemoryMib,
}

/// Why a row makes no gang.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShapeError {
    /// It asks for a part of a GPU.
    #[error(
        "job {job}: gpu_milli is {milli}: shares of a GPU cannot be replayed yet; leave such jobs out, or write 1000"
    )]
    Share {
        /// Which job.
        job: String,
        /// Thousandths of a GPU.
        milli: u32,
    },
    /// It asks for none.
    #[error("job {job}: num_gpu is 0: only jobs with GPUs can be replayed; leave it out")]
    NoGpus {
        /// Which job.
        job: String,
    },
    /// Its GPUs cannot be spread evenly over its nodes, or are more than nodes have.
    #[error(
        "job {job}: num_gpu is {gpus} on {nodes} nodes, and nodes have {per_node} GPUs: no equal members make that"
    )]
    Uneven {
        /// Which job.
        job: String,
        /// Its GPUs.
        gpus: u32,
        /// Its nodes.
        nodes: u32,
        /// GPUs of the largest node that it may use.
        per_node: u32,
    },
}

/// The gang of a job where the largest node has `per_node` GPUs (at least 1).
///
/// # Errors
/// What a whole gang of whole GPUs cannot express.
pub fn gang(job: &TraceJob, per_node: u32) -> Result<Gang, ShapeError> {
    let id = || job.id.clone();
    if job.gpus == 0 {
        return Err(ShapeError::NoGpus { job: id() });
    }
    if job.gpu_milli != 1000 {
        return Err(ShapeError::Share { job: id(), milli: job.gpu_milli });
    }
    let uneven = |nodes| ShapeError::Uneven { job: id(), gpus: job.gpus, nodes, per_node };
    let (shape, is_per_node) = match job.nodes {
        Some(nodes) if nodes > 0 && job.gpus.is_multiple_of(nodes) && job.gpus / nodes <= per_node => {
            (equal(nodes, job.gpus / nodes).ok_or_else(|| uneven(nodes))?, true)
        }
        Some(nodes) => return Err(uneven(nodes)),
        None => (full_and_rest(job.gpus, per_node).ok_or_else(|| uneven(job.gpus.div_ceil(per_node)))?, false),
    };
    // What is stated for the whole job is divided by GPUs; each member gets what the largest needs.
    let part = |total: u64| (total * u64::from(shape.largest())).div_ceil(u64::from(job.gpus));
    let each = |stated: u64| if is_per_node { stated } else { part(stated) };
    let (cpu, memory) = (CpuMilli(each(job.cpu.0)), MemoryMib(each(job.memory.0)));
    Ok(Gang { distinct_nodes: is_per_node && shape.members() > 1, shape, cpu, memory })
}

fn equal(members: u32, gpus: u32) -> Option<Shape> {
    Some(Shape::Equal { members, gpus: gpus.try_into().ok()? })
}

fn full_and_rest(gpus: u32, per_node: u32) -> Option<Shape> {
    let (full, rest) = (gpus / per_node, gpus % per_node);
    match (full, rest) {
        (0, rest) => equal(1, rest),
        (full, 0) => equal(full, per_node),
        (full, rest) => {
            let each = u8::try_from(per_node).ok()?;
            let mut list = vec![each; full as usize];
            list.push(u8::try_from(rest).ok()?);
            Some(Shape::Unequal(list.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use dure_core::units::{Span, Time};

    use super::*;

    fn job(gpus: u32, nodes: Option<u32>) -> TraceJob {
        TraceJob {
            id: "j".into(),
            submit: Time(0),
            duration: Span(1),
            gpus,
            gpu_milli: 1000,
            nodes,
            cpu: CpuMilli(12_000),
            ..TraceJob::default()
        }
    }

    #[test]
    fn full_nodes_and_one_for_the_rest() {
        let shape = |gpus, nodes| gang(&job(gpus, nodes), 8).map(|gang| format!("{:?} {}", gang.shape, gang.cpu));
        assert_eq!(shape(1, None).as_deref(), Ok("1x1 12000"));
        assert_eq!(shape(8, None).as_deref(), Ok("1x8 12000"));
        assert_eq!(shape(12, None).as_deref(), Ok("8+4 8000"));
        assert_eq!(shape(128, None).as_deref(), Ok("16x8 750"));
        assert_eq!(shape(12, Some(3)).as_deref(), Ok("3x4 12000"));
    }

    #[test]
    fn what_is_no_gang_is_named() {
        let why = |job: &TraceJob| gang(job, 8).expect_err("it is no gang").to_string();
        assert_eq!(why(&job(0, None)), "job j: num_gpu is 0: only jobs with GPUs can be replayed; leave it out");
        assert_eq!(
            why(&job(12, Some(1))),
            "job j: num_gpu is 12 on 1 nodes, and nodes have 8 GPUs: no equal members make that"
        );
        let share = TraceJob { gpu_milli: 460, ..job(1, None) };
        assert!(why(&share).starts_with("job j: gpu_milli is 460: shares of a GPU"), "{}", why(&share));
    }
}
