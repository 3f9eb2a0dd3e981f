//! Copies the images of a CRIU dump to the other host over TCP, as its users must by themselves.
//!
//! For each file: the length of its name (1 byte), the name, its length (8 bytes), its bytes.

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Write as _, copy};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

type Outcome = Result<(), Box<dyn Error>>;

/// Where the receiver listens.
const PORT: u16 = 9877;

/// Take one sender's files into `folder`.
pub fn receive_images(folder: &Path) -> Outcome {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("listening");
    let mut stream = BufReader::new(listener.accept()?.0);
    let mut length = [0];
    while stream.read(&mut length)? == 1 {
        let mut name = vec![0; usize::from(length[0])];
        stream.read_exact(&mut name)?;
        let mut size = [0; 8];
        stream.read_exact(&mut size)?;
        let name = String::from_utf8(name)?;
        if name.contains('/') {
            return Err(format!("take the file {name:?}: not a plain name").into());
        }
        let mut file = File::create(folder.join(name))?;
        copy(&mut (&mut stream).take(u64::from_le_bytes(size)), &mut file)?;
    }
    Ok(())
}

/// Send every image in `folder`.
pub fn send_images(folder: &Path, address: &str) -> Outcome {
    let mut stream = BufWriter::new(TcpStream::connect((address, PORT))?);
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.ends_with(".img") {
            continue;
        }
        let mut file = File::open(&path)?;
        stream.write_all(&[u8::try_from(name.len())?])?;
        stream.write_all(name.as_bytes())?;
        stream.write_all(&file.metadata()?.len().to_le_bytes())?;
        copy(&mut file, &mut stream)?;
    }
    Ok(stream.flush()?)
}
