//! Values in files: read up to the protocol's bound, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use memkv_proto::limits::VALUE_BYTES_MAX;

use crate::exit::{Exit, Failure};

/// Links that one path may lead through, as the kernel has it.
const LINKS_MAX: usize = 40;

/// The value in a file. What has no end, such as a device, is read up to the bound only.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("read {name}"))?;
    let meta = file.metadata().with_context(|| format!("read {name}"))?;
    if meta.is_file() && meta.len() > VALUE_BYTES_MAX {
        return Err(too_large(&name, &meta.len().to_string(), VALUE_BYTES_MAX));
    }
    bounded(file, &name, VALUE_BYTES_MAX)
}

/// The value on stdin.
pub(crate) fn read_stdin() -> Result<Vec<u8>, Failure> {
    bounded(io::stdin().lock(), "stdin", VALUE_BYTES_MAX)
}

fn bounded(from: impl Read, name: &str, max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    from.take(max + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {name}"))?;
    if bytes.len() as u64 > max {
        return Err(too_large(name, &format!("more than {max}"), max));
    }
    Ok(bytes)
}

fn too_large(name: &str, len: &str, max: u64) -> Failure {
    let error = anyhow!(
        "read {name}: the value has {len} bytes; a value has at most {max}; split it over several keys"
    );
    Failure::new(Exit::Usage, error)
}

/// Lines of a bounded length, without their ends.
pub(crate) struct Lines<R> {
    from: R,
    name: String,
    max: u64,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// The lines of `from`, which messages call `name`, each of at most `max` bytes.
    pub(crate) fn new(from: R, name: &Path, max: u64) -> Self {
        let name = name.display().to_string();
        Self {
            from,
            name,
            max,
            number: 0,
        }
    }

    fn line(&mut self) -> Result<Option<String>, Failure> {
        let mut bytes = Vec::new();
        let name = &self.name;
        let mut from = (&mut self.from).take(self.max + 1);
        from.read_until(b'\n', &mut bytes)
            .with_context(|| format!("read {name}"))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let place = format!("{name}:{}", self.number);
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        } else if bytes.len() as u64 > self.max {
            let max = self.max;
            let error = anyhow!("{place}: the line has more than {max} bytes; is it text at all?");
            return Err(Failure::new(Exit::Usage, error));
        }
        let line = String::from_utf8(bytes).with_context(|| format!("read {place}"))?;
        Ok(Some(line))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<String, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.line().transpose()
    }
}

/// Writes a value to where `path` leads. A regular file appears whole or not at all and keeps its mode; a device or a FIFO
/// is written into.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    put_in_place(path, bytes).with_context(|| format!("write {}", path.display()))
}

fn put_in_place(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let descriptor = path.starts_with("/dev/fd") || path.starts_with("/proc");
    let standard = path == Path::new("/dev/stdout") || path == Path::new("/dev/stderr");
    if descriptor || standard {
        // An open file, which its opener expects to stay the same one.
        return OpenOptions::new().append(true).open(path)?.write_all(bytes);
    }
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => replace(&fs::canonicalize(path)?, Some(&meta), bytes),
        Ok(_) => OpenOptions::new().write(true).open(path)?.write_all(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            replace(&end_of_links(path)?, None, bytes)
        }
        Err(error) => Err(error),
    }
}

/// Where a path whose file isn't there would make it: a link may lead to what doesn't exist yet.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(target) => path = path.with_file_name("").join(target),
            // No link; whether anything can be made there shows when it is.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other(format!(
        "leads through more than {LINKS_MAX} links"
    )))
}

/// Writes a file beside its place, then renames it there.
fn replace(path: &Path, old: Option<&fs::Metadata>, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_file_name(format!(".memkv-{}.part", std::process::id()));
    let written = write_part(&part, old, bytes).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // It may not even have been made.
        let _ = fs::remove_file(&part);
    }
    written
}

fn write_part(part: &Path, old: Option<&fs::Metadata>, bytes: &[u8]) -> io::Result<()> {
    // One that is there was left by a process of the same number that was killed.
    let _ = fs::remove_file(part);
    // Nobody reads what replaces a private file before it is private too.
    let mode = if old.is_some() { 0o600 } else { 0o666 };
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(part)?;
    file.write_all(bytes)?;
    if let Some(old) = old {
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
            // Only root may give files away; anybody else's new file is his own.
            let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, symlink};

    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("there");
        write(&target, b"old").unwrap();
        write(&target, b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        let taken = directory.path().join("taken");
        fs::create_dir(&taken).unwrap();
        assert!(write(&taken, b"value").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("private");
        for mode in [0o600, 0o640, 0o755] {
            fs::write(&target, b"old").unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
            write(&target, b"new").unwrap();
            assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, mode);
        }
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let (link, chain) = (
            directory.path().join("link"),
            directory.path().join("chain"),
        );
        symlink("target", &link).unwrap();
        symlink("link", &chain).unwrap();
        for value in [b"first", b"other"] {
            write(&chain, value).unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert!(fs::symlink_metadata(&chain).unwrap().is_symlink());
            assert_eq!(fs::read(directory.path().join("target")).unwrap(), value);
        }
        let circle = directory.path().join("circle");
        symlink("circle", &circle).unwrap();
        assert!(write(&circle, b"value").is_err());
    }

    #[test]
    fn a_fifo_stays_one_and_its_reader_gets_the_value() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let path = fifo.clone();
        let reader = std::thread::spawn(move || fs::read(path).unwrap());
        write(&fifo, b"value").unwrap();
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
        assert_eq!(reader.join().unwrap(), b"value");
    }

    #[test]
    fn what_has_no_end_is_read_up_to_the_bound() {
        let bytes = bounded(&b"1234"[..], "x", 4).map_err(|failure| failure.exit);
        assert_eq!(bytes, Ok(b"1234".to_vec()));
        let failure = bounded(io::repeat(0), "x", 4).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        let text = failure.error.unwrap().to_string();
        for part in ["read x", "more than 4 bytes", "at most 4;", "split it"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_line_has_a_bound_too() {
        let lines = |from: &'static [u8]| {
            let lines = Lines::new(from, Path::new("x"), 4);
            lines
                .map(|line| {
                    line.map_err(|failure| (failure.exit, failure.error.unwrap().to_string()))
                })
                .collect::<Vec<_>>()
        };
        let text = |text: &str| Ok(text.to_owned());
        assert_eq!(lines(b"1234\nab\r\n\nc"), ["1234", "ab", "", "c"].map(text));
        let found = lines(b"a\n12345");
        let (exit, error) = found[1].clone().unwrap_err();
        assert_eq!(exit, Exit::Usage);
        assert!(error.contains("x:2: the line has more than 4"), "{error}");
        let endless = io::BufReader::new(io::repeat(0));
        assert!(
            Lines::new(endless, Path::new("x"), 4)
                .next()
                .unwrap()
                .is_err()
        );
    }
}
