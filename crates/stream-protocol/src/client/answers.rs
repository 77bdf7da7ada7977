//! What an answer changes: successes taken, refusals heeded, losses made good.

use chunking::MAX_CHUNK;
use serde::de::DeserializeOwned;

use super::disk::{DiskState, End};
use super::{Millis, Phase, Push, PushError, What};
use crate::format::{Answer, FrameError, HEADER_LEN, RECORD_LEN};
use crate::message::{
    Appended, ChunksTaken, DiskCommitted, ErrorBody, ErrorCode, Opened, SignSeen, Welcome,
    WireVersion,
};
use crate::route::Response;

impl Push {
    /// Take a success. An error is an answer that makes no sense.
    pub(super) fn take(
        &mut self,
        now: Millis,
        what: &What,
        response: &Response,
    ) -> Result<(), String> {
        match what {
            What::Hello => {
                let Welcome { version, .. } = read_json(response)?;
                match WireVersion::from_number(version) {
                    Some(_) => self.phase = Phase::Opening,
                    None => self.fail(PushError::Version {
                        found: version,
                        oldest: WireVersion::OLDEST.number(),
                        newest: WireVersion::NEWEST.number(),
                    }),
                }
            }
            What::Open => {
                let opened = read_json(response)?;
                self.take_opened(now, response.epoch, opened)?;
            }
            What::Query(ids) => {
                let asked = ids.len() as u32;
                let answer = Answer::decode(&response.body, asked);
                let answer = answer.map_err(|error: FrameError| error.to_string())?;
                let found = self.chunks.take_answer(ids, &answer.lacking);
                self.progress.known_chunks += found.chunks;
                self.progress.known_bytes += found.bytes;
            }
            What::Chunks { ids, bytes } => {
                let _: ChunksTaken = read_json(response)?;
                self.chunks.settle_batch(ids);
                self.progress.sent_chunks += ids.len() as u64;
                self.progress.wire_bytes += bytes;
            }
            What::Recipe { disk, count } => {
                let Appended { durable_entries } = read_json(response)?;
                self.take_appended(*disk, *count, durable_entries);
            }
            What::Commit { disk } => {
                let DiskCommitted { root } = read_json(response)?;
                self.take_committed(*disk, root);
            }
            What::Finish => self.outcome = Some(Ok(read_json(response)?)),
            What::Sign => {
                let SignSeen { .. } = read_json(response)?;
            }
        }
        Ok(())
    }

    pub(super) fn take_opened(
        &mut self,
        now: Millis,
        epoch: u64,
        opened: Opened,
    ) -> Result<(), String> {
        if epoch == 0 {
            return Err("the answer names no epoch".to_owned());
        }
        if let Some(finished) = opened.finished {
            self.outcome = Some(Ok(finished));
            return Ok(());
        }
        if opened.disks.len() != self.disks.len() {
            self.fail(PushError::DiskCount {
                expected: self.disks.len(),
                found: opened.disks.len(),
            });
            return Ok(());
        }
        let one_chunk = (HEADER_LEN + RECORD_LEN) as u32 + MAX_CHUNK;
        if opened.limits.max_batch_bytes < one_chunk {
            self.fail(PushError::LimitsTooSmall {
                expected: one_chunk,
                found: opened.limits.max_batch_bytes,
            });
            return Ok(());
        }
        for (index, progress) in opened.disks.iter().enumerate() {
            let Some(disk) = self.disks.get_mut(index) else {
                break;
            };
            if progress.committed.is_some() {
                if disk.state != End::Committed {
                    self.entries -= disk.entries.len();
                    disk.complete(&mut self.chunks);
                    self.progress.committed_disks += 1;
                }
            } else if progress.durable_entries < disk.durable || disk.state == End::Committed {
                let (expected, found) = (disk.durable, progress.durable_entries);
                self.fail(PushError::WorkLost {
                    disk: index as u32,
                    expected,
                    found,
                });
                return Ok(());
            }
        }
        self.epoch = epoch;
        self.push = opened.push;
        self.limits = opened.limits;
        self.phase = Phase::Streaming;
        self.last_append = now;
        self.opened_once = true;
        Ok(())
    }

    fn take_appended(&mut self, index: usize, count: usize, durable_entries: u64) {
        let Some(disk) = self.disks.get_mut(index) else {
            return;
        };
        disk.busy = false;
        let expected = disk.durable + count as u64;
        if durable_entries < expected {
            self.fail(PushError::WorkLost {
                disk: index as u32,
                expected,
                found: durable_entries,
            });
            return;
        }
        disk.replace = false;
        self.entries -= count;
        self.progress.durable_bytes += disk.make_durable(count, &mut self.chunks);
    }

    fn take_committed(&mut self, index: usize, root: crate::RecipeRoot) {
        let Some(disk) = self.disks.get_mut(index) else {
            return;
        };
        if disk.commit(&[]).root != root {
            self.fail(PushError::OtherRoot { disk: index as u32 });
            return;
        }
        disk.complete(&mut self.chunks);
        self.progress.committed_disks += 1;
    }

    pub(super) fn refused(&mut self, now: Millis, what: What, response: &Response) {
        let Ok(body) = read_json::<ErrorBody>(response) else {
            let reason = format!("the answer has HTTP status {}", response.status);
            return self.try_again(now, what, reason);
        };
        match (body.code, &what) {
            (ErrorCode::PushUnknown, _) if self.phase == Phase::Streaming => {
                self.reopen();
                self.pause(now, &What::Open, body.to_string());
            }
            (ErrorCode::ChunkMissing, What::Recipe { .. }) => {
                self.ask_again();
                self.pause(now, &what, body.to_string());
            }
            (ErrorCode::RecipeConflict, What::Recipe { disk, .. }) => {
                // The entries of an earlier run, which read an earlier state of the disk.
                let disk = self.disks.get_mut(*disk);
                match disk {
                    Some(disk) if !disk.replace => {
                        disk.replace = true;
                        disk.busy = false;
                    }
                    _ => self.fail(PushError::Refused(body)),
                }
            }
            (code, _) if code.is_passing() => self.try_again(now, what, body.to_string()),
            _ => self.fail(PushError::Refused(body)),
        }
    }

    /// The request had no success: its work goes back to where it came from.
    pub(super) fn try_again(&mut self, now: Millis, what: What, reason: String) {
        match &what {
            What::Query(ids) => self.chunks.return_query(ids),
            What::Chunks { ids, bytes } => {
                self.progress.wire_bytes += bytes;
                self.chunks.return_batch(ids);
            }
            What::Recipe { disk, .. } | What::Commit { disk } => {
                if let Some(disk) = self.disks.get_mut(*disk) {
                    disk.busy = false;
                }
            }
            What::Hello | What::Open | What::Finish | What::Sign => {}
        }
        self.pause(now, &what, reason);
    }

    pub(super) fn pause(&mut self, now: Millis, what: &What, reason: String) {
        if self.backoff.fail(now, what.weight(), reason.clone()) {
            let since = self
                .backoff
                .trouble
                .as_ref()
                .map_or(now, |trouble| trouble.since);
            let seconds = now.0.saturating_sub(since.0) / 1000;
            self.fail(PushError::GaveUp { seconds, reason });
        }
    }

    /// The receiver is another one than before: begin anew, with all that is not durable.
    pub(super) fn reopen(&mut self) {
        self.phase = Phase::Greeting;
        self.progress.reopened += 1;
        self.ask_again();
    }

    /// Nothing that is not durable counts any more; what is under way is not listened to.
    fn ask_again(&mut self) {
        self.generation += 1;
        for disk in &mut self.disks {
            disk.unsettle();
        }
        let ids = self.disks.iter().flat_map(DiskState::ids);
        self.chunks.unsettle(ids);
    }

    fn fail(&mut self, error: PushError) {
        if self.outcome.is_none() {
            self.outcome = Some(Err(error));
        }
    }
}

fn read_json<T: DeserializeOwned>(response: &Response) -> Result<T, String> {
    serde_json::from_slice(&response.body)
        .map_err(|error| format!("the answer cannot be read: {error}"))
}
