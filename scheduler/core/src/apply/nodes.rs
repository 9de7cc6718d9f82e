//! Nodes, and what members hold on them.

use crate::cluster::Cluster;
use crate::event::Event;
use crate::gpu::GpuSet;
use crate::ids::{JobId, MemberIndex};
use crate::node::{Node, Resident};
use crate::units::{CpuMilli, Gpus, MemoryMib, Time};

impl Cluster {
    pub(super) fn apply_to_node(&mut self, now: Time, event: &Event) {
        let (index, old_pool) = match event {
            Event::NodeJoined { node, name, pool, location, capacity, boot_id } => {
                self.add_node(Node {
                    index: *node,
                    name: name.clone(),
                    pool: *pool,
                    location: location.clone(),
                    capacity: capacity.clone(),
                    boot_id: boot_id.clone(),
                    contact: crate::node::Contact::Ready,
                    contact_since: now,
                    cordoned: false,
                    draining: false,
                    bad: GpuSet::EMPTY,
                    taken: GpuSet::EMPTY,
                    cpu_taken: CpuMilli::ZERO,
                    memory_taken: MemoryMib::ZERO,
                    residents: Vec::new(),
                    promised: crate::node::Promised::default(),
                });
                return;
            }
            Event::NodeChanged { node, pool, location, capacity } => {
                let entry = &mut self.nodes[node.at()];
                let old = entry.pool;
                entry.pool = *pool;
                entry.location = location.clone();
                entry.capacity = capacity.clone();
                self.index_is_stale = true;
                (*node, old)
            }
            Event::NodeContact { node, contact } => {
                let entry = &mut self.nodes[node.at()];
                entry.contact = *contact;
                entry.contact_since = now;
                (*node, entry.pool)
            }
            Event::NodeRebooted { node, boot_id } => {
                self.nodes[node.at()].boot_id = boot_id.clone();
                return;
            }
            Event::NodeCordoned { node, cordoned, draining } => {
                let entry = &mut self.nodes[node.at()];
                entry.cordoned = *cordoned;
                entry.draining = *draining;
                (*node, entry.pool)
            }
            Event::GpusFenced { node, bad } => {
                let entry = &mut self.nodes[node.at()];
                entry.bad = *bad;
                (*node, entry.pool)
            }
            _ => unreachable!("only events of nodes come here"),
        };
        self.node_changed(index);
        self.freed();
        let pool = self.nodes[index.at()].pool;
        self.count_capacity(pool);
        if old_pool != pool {
            self.count_capacity(old_pool);
        }
    }

    pub(super) fn add_node(&mut self, node: Node) {
        let pool = node.pool;
        assert_eq!(node.index.at(), self.nodes.len(), "nodes are numbered as they appear");
        self.node_names.insert(node.name.clone(), node.index);
        let index = node.index;
        self.nodes.push(node);
        self.idle.push((pool, Gpus::ZERO));
        self.index_is_stale = true;
        self.node_changed(index);
        self.freed();
        self.count_capacity(pool);
    }

    /// A member takes its GPUs, CPU and memory on its node.
    pub(super) fn occupy(&mut self, id: JobId, member: MemberIndex) {
        let job = self.jobs.get(id).expect("an event names a job that exists");
        let placed = job.attempt.as_deref().expect("it was placed").members[member.at()].placed;
        let (cpu, memory) = (job.spec.request.cpu, job.spec.request.memory);
        let node = &mut self.nodes[placed.node.at()];
        assert!(node.taken.and(placed.gpus).is_empty(), "no GPU is held twice");
        node.taken = node.taken.with(placed.gpus);
        node.cpu_taken += cpu;
        node.memory_taken += memory;
        let resident = Resident { job: id, member };
        let at = node.residents.binary_search(&resident).expect_err("a member takes its place once");
        node.residents.insert(at, resident);
        self.node_changed(placed.node);
    }

    /// A member gives back what it took.
    pub(super) fn vacate(&mut self, id: JobId, member: MemberIndex) {
        let job = self.jobs.get(id).expect("an event names a job that exists");
        let placed = job.attempt.as_deref().expect("it was placed").members[member.at()].placed;
        let (cpu, memory) = (job.spec.request.cpu, job.spec.request.memory);
        let node = &mut self.nodes[placed.node.at()];
        node.taken = node.taken.without(placed.gpus);
        node.cpu_taken -= cpu;
        node.memory_taken -= memory;
        let at = node.residents.binary_search(&Resident { job: id, member }).expect("it is there");
        node.residents.remove(at);
        self.node_changed(placed.node);
        self.freed();
    }
}
