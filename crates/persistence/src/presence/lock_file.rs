use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// A file beside the database that its owner's process holds locked. Whatever ends the process takes
/// the lock away.
pub(crate) struct LockFile {
    path: PathBuf,
    _locked: File,
}

impl LockFile {
    pub(super) fn hold(database: &Path, owner: Uuid) -> io::Result<Self> {
        let path = path(database, owner);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let locked = options.open(&path)?;
        locked.lock()?;
        let held = Self {
            path,
            _locked: locked,
        };
        Ok(held)
    }

    /// Whether the process that held it is gone. Then the file is too.
    pub(super) fn is_left(database: &Path, owner: Uuid) -> bool {
        let path = path(database, owner);
        match File::open(&path) {
            Ok(file) => {
                let is_left = file.try_lock_shared().is_ok();
                if is_left {
                    drop(fs::remove_file(path));
                }
                is_left
            }
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

fn path(database: &Path, owner: Uuid) -> PathBuf {
    let mut path = OsString::from(database);
    path.push(format!("-server-{owner}"));
    path.into()
}
