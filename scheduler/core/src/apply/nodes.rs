//! Nodes, and what members hold on them.

use crate::cluster::Cluster;
use crate::event::Event;
use crate::gpu::GpuSet;
use crate::ids::{JobId, MemberIndex, NodeIndex, PoolIndex};
use crate::node::{Node, Resident, Residents};
use crate::parts::Parts;
use crate::placement::Placed;
use crate::pools::Counted;
use crate::units::{CpuMilli, MemoryMib, Time};

impl Cluster {
    pub(super) fn apply_to_node(&mut self, now: Time, event: &Event) {
        let index = match event {
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
                    spare: false,
                    booked: crate::node::Booked::default(),
                    bad: GpuSet::EMPTY,
                    taken: GpuSet::EMPTY,
                    parts: Parts::laid_out(&capacity.layouts),
                    cpu_taken: CpuMilli::ZERO,
                    memory_taken: MemoryMib::ZERO,
                    residents: Residents::new(),
                    promised: crate::node::SetAside::default(),
                    reserved: crate::node::SetAside::default(),
                });
                return;
            }
            Event::NodeChanged { node, pool, location, capacity } => {
                // What it leaves may be another pool's.
                self.freed(self.nodes[node.at()].pool);
                let entry = &mut self.nodes[node.at()];
                entry.pool = *pool;
                entry.location = location.clone();
                entry.capacity = capacity.clone();
                entry.parts.lay_out(&capacity.layouts);
                self.index_is_stale = true;
                *node
            }
            Event::NodeContact { node, contact } => {
                let entry = &mut self.nodes[node.at()];
                entry.contact = *contact;
                entry.contact_since = now;
                *node
            }
            Event::NodeRebooted { node, boot_id } => {
                self.nodes[node.at()].boot_id = boot_id.clone();
                return;
            }
            Event::NodeCordoned { node, cordoned, draining } => {
                let entry = &mut self.nodes[node.at()];
                entry.cordoned = *cordoned;
                entry.draining = *draining;
                *node
            }
            Event::NodeSpared { node, spare } => {
                self.set_spare(*node, *spare);
                *node
            }
            Event::GpusFenced { node, bad } => {
                let entry = &mut self.nodes[node.at()];
                entry.bad = *bad;
                *node
            }
            _ => unreachable!("only events of nodes come here"),
        };
        self.node_changed(index);
        self.freed(self.nodes[index.at()].pool);
        self.divided_anew();
    }

    fn set_spare(&mut self, node: NodeIndex, spare: bool) {
        let entry = &mut self.nodes[node.at()];
        let before = std::mem::replace(&mut entry.spare, spare);
        self.spare_nodes = self.spare_nodes + u32::from(spare) - u32::from(before);
    }

    pub(super) fn add_node(&mut self, node: Node) {
        let pool = node.pool;
        assert_eq!(node.index.at(), self.nodes.len(), "nodes are numbered as they appear");
        self.node_names.insert(node.name.clone(), node.index);
        let index = node.index;
        self.spare_nodes += u32::from(node.spare);
        self.nodes.push(node);
        self.counted.push(Counted::nothing(pool));
        self.reach.add(&self.nodes[index.at()]);
        self.index_is_stale = true;
        self.node_changed(index);
        self.freed(pool);
        self.divided_anew();
    }

    /// These members of a job's attempt take their GPUs, CPU and memory on their nodes.
    pub(super) fn occupy(&mut self, id: JobId, members: impl Iterator<Item = MemberIndex> + Clone) {
        self.change_members(id, members, |node, resident, placed, cpu, memory| {
            assert!(node.taken.and(placed.gpus).is_empty(), "no GPU is held twice");
            let whole = placed.whole_gpus();
            assert!(node.parts.held().and(whole).is_empty(), "no GPU is held whole and in parts");
            node.taken = node.taken.with(whole);
            node.parts.take(&placed);
            node.cpu_taken += cpu;
            node.memory_taken += memory;
            let at = node.residents.binary_search(&resident).expect_err("a member takes its place once");
            node.residents.insert(at, resident);
        });
    }

    /// These members of a job's attempt give back what they took.
    pub(super) fn vacate(&mut self, id: JobId, members: impl Iterator<Item = MemberIndex> + Clone) {
        self.change_members(id, members.clone(), |node, resident, placed, cpu, memory| {
            node.taken = node.taken.without(placed.whole_gpus());
            node.parts.give_back(&placed);
            node.cpu_taken -= cpu;
            node.memory_taken -= memory;
            let at = node.residents.binary_search(&resident).expect("it is there");
            node.residents.remove(at);
        });
        for member in members {
            // The node may have come to another pool since the attempt was placed.
            let node = self.member_mut(id, member).placed.node;
            self.freed_on(node);
        }
    }

    /// The pool in which the attempt of a job lies.
    pub(super) fn pool_of(&self, id: JobId) -> PoolIndex {
        let attempt = self.jobs.get(id).and_then(|job| job.attempt.as_deref());
        attempt.expect("what holds GPUs has an attempt").pool
    }

    /// Changes the nodes of members; what is counted of nodes follows once for all of them.
    fn change_members(
        &mut self,
        id: JobId,
        members: impl Iterator<Item = MemberIndex> + Clone,
        change: impl Fn(&mut Node, Resident, Placed, CpuMilli, MemoryMib),
    ) {
        let Self { jobs, nodes, pools, counted, index, reach, .. } = self;
        let job = jobs.get(id).expect("an event names a job that exists");
        let (cpu, memory) = (job.spec.request.cpu, job.spec.request.memory);
        let placed = |member: MemberIndex| job.attempt.as_deref().expect("it was placed").members[member.at()].placed;
        for member in members.clone() {
            let placed = placed(member);
            let node = &mut nodes[placed.node.at()];
            change(node, Resident { job: id, member }, placed, cpu, memory);
            counted[placed.node.at()].follow(node, pools);
            reach.touch(placed.node);
        }
        if self.index_is_stale {
            return;
        }
        index.sync_members(nodes, members.clone().map(|member| placed(member).node));
        if !self.whole.is_empty() {
            members.for_each(|member| {
                let node = self.member_mut(id, member).placed.node;
                self.recount_domain(node);
            });
        }
    }
}
