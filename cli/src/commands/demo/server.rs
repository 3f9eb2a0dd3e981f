//! A small in-memory key-value server: `SET key value`, `GET key`, one line each.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

type Store = Arc<Mutex<HashMap<String, String>>>;

/// Words: port, bytes of memory to hold besides the keys.
pub(super) fn run(words: &[String]) -> u8 {
    let [port, size] = words else { return 2 };
    let (Ok(port), Ok(size)) = (port.parse::<u16>(), size.parse::<usize>()) else {
        return 2;
    };
    let ballast = ballast(size);
    let Ok(listener) = TcpListener::bind(("0.0.0.0", port)) else { return 1 };
    let store = Store::default();
    for client in listener.incoming().flatten() {
        let store = Arc::clone(&store);
        std::thread::spawn(move || serve(client, &store));
    }
    // Reached only if the listener broke: keeps the memory from being thought unused.
    ballast.first().copied().unwrap_or(1)
}

/// Memory that looks like a server's: half of it random, half of it repetitive.
fn ballast(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = vec![0; size];
    for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = if at / 512 % 2 == 0 { state } else { 0x7175_6965_7420_0a0a };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn serve(client: TcpStream, store: &Store) {
    let Ok(mut answers) = client.try_clone() else { return };
    for line in BufReader::new(client).lines() {
        let Ok(line) = line else { return };
        let mut words = line.splitn(3, ' ');
        let mut table = store.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match (words.next(), words.next(), words.next()) {
            (Some("SET"), Some(key), Some(value)) => {
                table.insert(key.to_owned(), value.to_owned());
                "OK".to_owned()
            }
            (Some("GET"), Some(key), None) => table.get(key).cloned().unwrap_or_default(),
            _ => "what?".to_owned(),
        };
        drop(table);
        // One write a line: two would wait for each other's acknowledgement.
        if answers.write_all(format!("{answer}\n").as_bytes()).is_err() {
            return;
        }
    }
}
