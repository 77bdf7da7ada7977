//! A window on its way from the source to every output.

use std::collections::HashMap;

use block_io::{BlockError, BlockRead};

use super::plan::Window;
use super::{CopyError, SharedSink};
use crate::codec::Encoder;
use crate::output::{
    EncodedChunk, OutputError, PartFile, PlacedBytes, Placement, Repeated, Stored,
};

/// What carries a window, and what becomes of it in every output.
pub(super) struct Carrier {
    pub(super) window: Window,
    plain: Vec<u8>,
    loads: Vec<Load>,
}

/// The window as one output stores it.
#[derive(Default)]
struct Load {
    units: Vec<Stored>,
    packed: Vec<u8>,
    placements: Vec<Placement>,
}

impl Carrier {
    /// An empty carrier for windows of `window` bytes and so many outputs.
    pub(super) fn new(window: u64, outputs: usize) -> Self {
        Self {
            window: Window::default(),
            plain: vec![0; window as usize],
            loads: (0..outputs).map(|_| Load::default()).collect(),
        }
    }

    /// Read the window's data; what the map calls zero, and what lies past the end, becomes zero.
    pub(super) fn read(
        &mut self,
        source: &dyn BlockRead,
        window: Window,
    ) -> Result<(), BlockError> {
        let mut filled = 0;
        for part in &window.data {
            let range = (part.start - window.start) as usize..(part.end - window.start) as usize;
            self.plain[filled..range.start].fill(0);
            source.read_at(part.start, &mut self.plain[range.clone()])?;
            filled = range.end;
        }
        self.plain[filled..].fill(0);
        self.window = window;
        Ok(())
    }

    /// Find the zeroes and pack what each output wants packed, with one encoder an output.
    pub(super) fn encode(&mut self, encoders: &mut [Encoder]) -> Result<(), CopyError> {
        for (load, encoder) in self.loads.iter_mut().zip(encoders) {
            encoder
                .encode(&self.plain, &mut load.units, &mut load.packed)
                .map_err(CopyError::Compress)?;
        }
        Ok(())
    }

    /// Let every output decide where its units go.
    pub(super) fn place(&mut self, sinks: &[SharedSink<'_>]) -> Result<(), OutputError> {
        for (sink, load) in sinks.iter().zip(&mut self.loads) {
            load.placements.clear();
            let chunk = EncodedChunk {
                start: self.window.start,
                plain: &self.plain,
                packed: &load.packed,
                units: &load.units,
            };
            sink.lock().place(&chunk, &mut load.placements)?;
        }
        Ok(())
    }

    /// Write what was placed, runs that follow each other in a file in one call.
    pub(super) fn write(&self, sinks: &[SharedSink<'_>]) -> Result<(), OutputError> {
        for (sink, load) in sinks.iter().zip(&self.loads) {
            let repeated = spell_out(&load.placements);
            let mut run: Vec<&[u8]> = Vec::new();
            let mut run_file = 0;
            let mut run_start = 0;
            let mut run_end = 0;
            for placement in &load.placements {
                let bytes: &[u8] = match &placement.bytes {
                    PlacedBytes::Plain(range) => &self.plain[range.clone()],
                    PlacedBytes::Packed(range) => &load.packed[range.clone()],
                    PlacedBytes::Made(bytes) => bytes,
                    PlacedBytes::Repeated(table) => repeated.get(&table).map_or(&[], Vec::as_slice),
                };
                if placement.file != run_file || placement.offset != run_end {
                    flush_run(sink.files, run_file, run_start, &mut run)?;
                    (run_file, run_start) = (placement.file, placement.offset);
                }
                run.push(bytes);
                run_end = placement.offset + bytes.len() as u64;
            }
            flush_run(sink.files, run_file, run_start, &mut run)?;
        }
        Ok(())
    }
}

/// The bytes of each table of equal entries, once however often it is placed.
fn spell_out(placements: &[Placement]) -> HashMap<&Repeated, Vec<u8>> {
    let mut spelled = HashMap::new();
    for placement in placements {
        if let PlacedBytes::Repeated(table) = &placement.bytes {
            spelled.entry(table).or_insert_with(|| table.bytes());
        }
    }
    spelled
}

fn flush_run(
    files: &[PartFile],
    file: usize,
    offset: u64,
    run: &mut Vec<&[u8]>,
) -> Result<(), OutputError> {
    if let (Some(file), false) = (files.get(file), run.is_empty()) {
        file.write_slices(offset, run)?;
    }
    run.clear();
    Ok(())
}
