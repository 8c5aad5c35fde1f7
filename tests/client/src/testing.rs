//! A small NBD server in memory, with mistakes that can be switched on.
//! Not here: anything a real server would do well; it serves the tests of this crate.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::wire::{
    CHUNK_MAGIC, GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, REQUEST_MAGIC, SIMPLE_MAGIC,
    chunk, command, export_flag, info, option, reply,
};

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mistake {
    None,
    /// Of so many writes, one is acknowledged and forgotten.
    LosesWrites(u64),
    /// Of so many reads, one returns what was there some requests ago.
    ReadsStale(u64),
    /// Of so many requests, one is carried out, not answered, and the connection closed.
    Closes(u64),
    /// Of so many reads, one has a flipped bit.
    FlipsBits(u64),
}

pub(crate) struct Volume {
    mistake: Mistake,
    turns: AtomicU64,
    bytes: Mutex<(Vec<u8>, Vec<u8>)>,
}

impl Volume {
    pub(crate) fn new(size: usize, mistake: Mistake) -> Arc<Self> {
        let bytes = Mutex::new((vec![0; size], vec![0; size]));
        Arc::new(Self { mistake, turns: AtomicU64::new(1), bytes })
    }

    fn is_turn(&self, every: u64) -> bool {
        self.turns.fetch_add(1, Ordering::Relaxed).is_multiple_of(every)
    }

    fn read(&self, at: usize, length: usize) -> Vec<u8> {
        let mut bytes = self.bytes.lock().expect("no panic");
        let (now, before) = &mut *bytes;
        match self.mistake {
            Mistake::ReadsStale(every) if self.is_turn(every) => {
                let old = before[at..at + length].to_vec();
                before.copy_from_slice(now);
                old
            }
            Mistake::FlipsBits(every) if self.is_turn(every) => {
                let mut flipped = now[at..at + length].to_vec();
                flipped[length / 2] ^= 4;
                flipped
            }
            _ => now[at..at + length].to_vec(),
        }
    }

    fn write(&self, at: usize, data: &[u8]) {
        if matches!(self.mistake, Mistake::LosesWrites(every) if self.is_turn(every)) {
            return;
        }
        self.bytes.lock().expect("no panic").0[at..at + data.len()].copy_from_slice(data);
    }
}

/// Serves `volume` on a port of its own until the process ends.
pub(crate) fn serve(volume: &Arc<Volume>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let volume = volume.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, volume) = (stream.expect("accepted"), volume.clone());
            std::thread::spawn(move || serve_one(stream, &volume));
        }
    });
    address
}

fn serve_one(mut stream: TcpStream, volume: &Volume) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let structured = haggle(&mut stream, volume.bytes.lock().expect("no panic").0.len())?;
    loop {
        let mut header = [0; 28];
        stream.read_exact(&mut header).ok()?;
        let long = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("8"));
        assert_eq!(header[..4], REQUEST_MAGIC.to_be_bytes());
        let (cookie, at) = (long(8), long(16) as usize);
        let length = u32::from_be_bytes(header[24..].try_into().expect("4")) as usize;
        let what = u16::from_be_bytes([header[6], header[7]]);
        let mut data = Vec::new();
        match what {
            command::READ => data = volume.read(at, length),
            command::WRITE => {
                let mut payload = vec![0; length];
                stream.read_exact(&mut payload).ok()?;
                volume.write(at, &payload);
            }
            command::WRITE_ZEROES | command::TRIM => volume.write(at, &vec![0; length]),
            command::DISC => return None,
            _ => {}
        }
        if matches!(volume.mistake, Mistake::Closes(every) if volume.is_turn(every)) {
            return None;
        }
        let mut answer = Vec::new();
        if structured && what == command::READ {
            answer.extend_from_slice(&CHUNK_MAGIC.to_be_bytes());
            answer.extend_from_slice(&chunk::DONE.to_be_bytes());
            answer.extend_from_slice(&chunk::OFFSET_DATA.to_be_bytes());
            answer.extend_from_slice(&cookie.to_be_bytes());
            answer.extend_from_slice(&(data.len() as u32 + 8).to_be_bytes());
            answer.extend_from_slice(&(at as u64).to_be_bytes());
        } else {
            answer.extend_from_slice(&SIMPLE_MAGIC.to_be_bytes());
            answer.extend_from_slice(&0u32.to_be_bytes());
            answer.extend_from_slice(&cookie.to_be_bytes());
        }
        answer.extend_from_slice(&data);
        stream.write_all(&answer).ok()?;
    }
}

fn haggle(stream: &mut TcpStream, size: usize) -> Option<bool> {
    stream.write_all(&GREETING_MAGIC.to_be_bytes()).ok()?;
    stream.write_all(&OPTION_MAGIC.to_be_bytes()).ok()?;
    stream.write_all(&3u16.to_be_bytes()).ok()?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags).ok()?;
    let mut structured = false;
    loop {
        let mut head = [0; 16];
        stream.read_exact(&mut head).ok()?;
        let wanted = u32::from_be_bytes(head[8..12].try_into().expect("4"));
        let length = u32::from_be_bytes(head[12..].try_into().expect("4"));
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data).ok()?;
        let mut answer = |kind: u32, data: &[u8]| {
            let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
            bytes.extend_from_slice(&wanted.to_be_bytes());
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
            bytes.extend_from_slice(data);
            stream.write_all(&bytes).ok()
        };
        match wanted {
            option::STRUCTURED_REPLY => {
                structured = true;
                answer(reply::ACK, &[])?;
            }
            option::GO if data[4..].starts_with(b"vol") => {
                let mut item = info::EXPORT.to_be_bytes().to_vec();
                item.extend_from_slice(&(size as u64).to_be_bytes());
                item.extend_from_slice(&export_flag::HAS_FLAGS.to_be_bytes());
                answer(reply::INFO, &item)?;
                answer(reply::ACK, &[])?;
                return Some(structured);
            }
            option::GO => answer(reply::ERR_UNKNOWN, b"no such export")?,
            _ => answer(reply::ERR_UNSUP, &[])?,
        }
    }
}
