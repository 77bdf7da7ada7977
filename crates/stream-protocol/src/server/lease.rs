//! Who may push which machine: one agent at a time.

use std::collections::{BTreeMap, VecDeque};

use crate::client::Millis;
use crate::message::{ErrorBody, ErrorCode, Finished, MachineName, OpenPush, PushKey, RunId};

/// Runs and pushes that ended, remembered so that late requests get the right answer.
const REMEMBERED: usize = 1024;

/// What a request of an open push is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushName {
    /// The machine.
    pub machine: MachineName,
    /// What the agent recognises its work by.
    pub key: PushKey,
    /// The run of the agent.
    pub run: RunId,
}

/// One agent's right to push one machine.
#[derive(Debug)]
struct Lease {
    push: u64,
    name: PushName,
    program: String,
    disk_sizes: Vec<u64>,
    since: Millis,
    heard: Millis,
    /// Requests being answered.
    running: usize,
}

/// All leases. Time is handed in.
#[derive(Debug, Default)]
pub(super) struct Leases {
    machines: BTreeMap<MachineName, Lease>,
    pushes: BTreeMap<u64, MachineName>,
    superseded: VecDeque<(u64, RunId)>,
    finished: VecDeque<(u64, Finished)>,
}

impl Leases {
    /// Give `open` the lease on its machine, as `push`.
    pub(super) fn open(
        &mut self,
        now: Millis,
        lease_millis: u64,
        push: u64,
        open: &OpenPush,
    ) -> Result<PushName, ErrorBody> {
        let name = PushName {
            machine: open.machine.clone(),
            key: open.push_key.clone(),
            run: open.run.clone(),
        };
        if self.superseded.iter().any(|(_, run)| *run == name.run) {
            return Err(superseded(&name.machine));
        }
        if let Some(held) = self.machines.get(&name.machine) {
            if held.name.run != name.run {
                held.may_be_taken(now, lease_millis, &name)?;
                let gone = (held.push, held.name.run.clone());
                remember(&mut self.superseded, gone);
            }
            self.pushes.remove(&held.push);
        }
        let lease = Lease {
            push,
            name: name.clone(),
            program: open.inventory.hostname.clone().unwrap_or_default(),
            disk_sizes: open.disks.iter().map(|disk| disk.size).collect(),
            since: now,
            heard: now,
            running: 1,
        };
        self.pushes.insert(push, name.machine.clone());
        self.machines.insert(name.machine.clone(), lease);
        Ok(name)
    }

    /// A request of `push` begins. [`Leases::end`] must follow.
    pub(super) fn begin(&mut self, now: Millis, push: u64) -> Result<PushName, ErrorBody> {
        let machine = self.pushes.get(&push);
        let Some(lease) = machine.and_then(|machine| self.machines.get_mut(machine)) else {
            if self.superseded.iter().any(|(gone, _)| *gone == push) {
                let message = "a later run of the agent has taken this push over";
                return Err(ErrorBody::new(ErrorCode::PushSuperseded, message)
                    .advice("only one agent may push a machine: stop one of them"));
            }
            let message = format!("push {push:016x} is not known (any more)");
            return Err(ErrorBody::new(ErrorCode::PushUnknown, message).advice("open it again"));
        };
        lease.heard = now;
        lease.running += 1;
        Ok(lease.name.clone())
    }

    /// A request of `push` has been answered.
    pub(super) fn end(&mut self, now: Millis, push: u64) {
        let machine = self.pushes.get(&push);
        if let Some(lease) = machine.and_then(|machine| self.machines.get_mut(machine)) {
            lease.heard = lease.heard.max(now);
            lease.running = lease.running.saturating_sub(1);
        }
    }

    /// The size of a disk of `push`.
    pub(super) fn disk_size(&self, push: u64, disk: u32) -> Option<u64> {
        let lease = self.machines.get(self.pushes.get(&push)?)?;
        lease.disk_sizes.get(disk as usize).copied()
    }

    /// The push is over; `finished` if it is complete.
    pub(super) fn close(&mut self, push: u64, finished: Option<Finished>) {
        if let Some(machine) = self.pushes.remove(&push) {
            self.machines.remove(&machine);
        }
        if let Some(finished) = finished {
            remember(&mut self.finished, (push, finished));
        }
    }

    /// What was answered when `push` was finished.
    pub(super) fn finished(&self, push: u64) -> Option<Finished> {
        let mut finished = self.finished.iter();
        finished
            .find(|(past, _)| *past == push)
            .map(|(_, finished)| finished.clone())
    }
}

impl Lease {
    /// Whether another run may take the lease.
    fn may_be_taken(&self, now: Millis, lease_millis: u64, by: &PushName) -> Result<(), ErrorBody> {
        let silent = now.0.saturating_sub(self.heard.0);
        let machine = &self.name.machine;
        if self.name.key != by.key && (silent < lease_millis || self.running > 0) {
            let since = now.0.saturating_sub(self.since.0) / 1000;
            let heard = silent / 1000;
            let who = if self.program.is_empty() {
                format!("the agent with push key {}", self.name.key)
            } else {
                format!(
                    "the agent on {:?} (push key {})",
                    self.program, self.name.key
                )
            };
            let message = format!(
                "machine {:?} is being pushed by {who}, since {since} s, last heard {heard} s ago",
                machine.as_str()
            );
            return Err(ErrorBody::new(ErrorCode::MachineBusy, message).advice(format!(
                "wait for it to end, stop it, or push under another name with --name; its claim ends {} s after it was last heard",
                lease_millis / 1000
            )));
        }
        // A request of the old run that is still being answered could write behind the new run's back.
        if self.running > 0 {
            let message = format!(
                "the last requests of the earlier run that pushed {:?} are being answered",
                machine.as_str()
            );
            return Err(ErrorBody::new(ErrorCode::Unavailable, message).advice("try again shortly"));
        }
        Ok(())
    }
}

fn superseded(machine: &MachineName) -> ErrorBody {
    let message = format!(
        "a later run of the agent has taken over the push of {:?}",
        machine.as_str()
    );
    ErrorBody::new(ErrorCode::PushSuperseded, message)
        .advice("only one agent may push a machine: stop one of them")
}

fn remember<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() >= REMEMBERED {
        list.pop_front();
    }
    list.push_back(item);
}
