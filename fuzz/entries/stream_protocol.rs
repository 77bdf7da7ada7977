//! What the fuzz target and the bounded test of `stream-protocol` both run: every decoder on the same bytes.
//!
//! A decoder may refuse; what it takes must come out of the encoder as it went in.

use stream_protocol::format::{Answer, Append, Batch, PackedChunk, Query};
use stream_protocol::message;
use stream_protocol::{ConnectString, Inventory, Route};

/// Feed `data` to every decoder.
pub fn feed(data: &[u8]) {
    if let Ok(query) = Query::decode(data, 4096) {
        assert_eq!(Query::encode(&query.ids), data);
    }
    let asked = data.get(8).map_or(0, |count| u32::from(*count));
    if let Ok(answer) = Answer::decode(data, asked) {
        assert_eq!(Answer::encode(&answer.lacking), data);
    }
    if let Ok(append) = Append::decode(data, 4096) {
        let again = Append::encode(append.start, append.replace, append.entries.iter());
        assert_eq!(again, data);
    }
    if let Ok(batch) = Batch::decode(data) {
        let chunks: Vec<PackedChunk> = batch
            .chunks
            .iter()
            .map(|chunk| PackedChunk {
                id: chunk.id,
                raw_len: chunk.raw_len,
                codec: chunk.codec,
                bytes: chunk.bytes.to_vec().into(),
            })
            .collect();
        assert_eq!(Batch::encode(&chunks).concat(), data);
        let mut raw = Vec::new();
        for chunk in &batch.chunks {
            let taken =
                chunking::unpack_into(&chunk.id, chunk.raw_len, chunk.codec, chunk.bytes, &mut raw);
            assert!(taken.is_err() || raw.len() == chunk.raw_len as usize);
        }
    }
    json::<Inventory>(data);
    json::<message::Hello>(data);
    json::<message::Welcome>(data);
    json::<message::OpenPush>(data);
    json::<message::Opened>(data);
    json::<message::ChunksTaken>(data);
    json::<message::Appended>(data);
    json::<message::CommitDisk>(data);
    json::<message::DiskCommitted>(data);
    json::<message::Finish>(data);
    json::<message::Finished>(data);
    json::<message::Sign>(data);
    json::<message::ErrorBody>(data);
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(string) = text.parse::<ConnectString>() {
            let again = string.to_string().parse::<ConnectString>();
            assert_eq!(again, Ok(string));
        }
        if let Ok(route) = Route::parse("POST", text) {
            assert_eq!(route.path(), text);
        }
    }
}

/// What is taken must be taken again after being written.
fn json<T: serde::de::DeserializeOwned + serde::Serialize>(data: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<T>(data) {
        let text = serde_json::to_vec(&message).expect("a message can be written");
        serde_json::from_slice::<T>(&text).expect("what was written can be read");
    }
}
