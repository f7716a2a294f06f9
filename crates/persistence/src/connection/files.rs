//! Files of SQLite that nobody but their owner reads.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// Before its lock is held, a directory has another name, by which nobody takes it for left behind.
const PREFIX: &str = "agentkit-process-";
const LOCK: &str = "lock";

/// Makes the file, unless it is there, so that its owner alone may read it whatever the umask says.
/// SQLite gives its log the mode of the file. One that is there keeps its mode.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    if path.exists() {
        warn_of_strangers(path);
        return Ok(());
    }
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let made = tempfile::Builder::new()
        .prefix(".agentkit-")
        .tempfile_in(directory.unwrap_or(Path::new(".")))?;
    // Closed before it has its name: closing a file takes away the locks that SQLite has on it, if
    // another thread has just opened it.
    match made.into_temp_path().persist_noclobber(path) {
        Err(refused) if refused.error.kind() != io::ErrorKind::AlreadyExists => Err(refused.error),
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn warn_of_strangers(path: &Path) {
    use std::os::unix::fs::PermissionsExt;

    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        let file = path.display();
        tracing::warn!(%file, "others than its owner may use the database: chmod 0600");
    }
}

#[cfg(not(unix))]
fn warn_of_strangers(_path: &Path) {}

/// A directory for what is gone with the process: the files of a database in memory, a socket. A lock tells for how long
/// that lives: the next one to start removes what a killed one left.
pub(crate) struct ProcessDirectory {
    path: PathBuf,
    _lock: File,
}

impl ProcessDirectory {
    pub(crate) fn make() -> io::Result<Self> {
        let made = private_directory()?;
        let lock = File::create(made.path().join(LOCK))?;
        lock.lock()?;
        let made = made.keep();
        let name = made.file_name().unwrap_or_default().to_string_lossy();
        let unique = name.trim_start_matches('.');
        let path = made.with_file_name(format!("{PREFIX}{unique}"));
        fs::rename(&made, &path)?;
        let made = Self { path, _lock: lock };
        made.remove_what_is_left();
        Ok(made)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directories beside this one whose process is gone. What can't be removed stays.
    fn remove_what_is_left(&self) {
        let beside = self
            .path
            .parent()
            .and_then(|beside| fs::read_dir(beside).ok());
        for entry in beside.into_iter().flatten().flatten() {
            let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
                && entry.path() != self.path
                && has_same_owner(&entry.path(), &self.path);
            if is_ours && is_left(&entry.path()) {
                let removed = fs::remove_dir_all(entry.path());
                tracing::info!(directory = %entry.path().display(), ?removed, "a process that is gone left it");
            }
        }
    }
}

impl Drop for ProcessDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, directory = %self.path.display(), "not removed");
        }
    }
}

/// Whether nobody holds the lock.
fn is_left(directory: &Path) -> bool {
    File::open(directory.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}

fn private_directory() -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".agentkit-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.tempdir()
}

#[cfg(unix)]
fn has_same_owner(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let owner = |path| {
        fs::symlink_metadata(path)
            .map(|metadata| metadata.uid())
            .ok()
    };
    owner(one).is_some() && owner(one) == owner(other)
}

#[cfg(not(unix))]
fn has_same_owner(_one: &Path, _other: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_of_a_living_one() {
        let living = ProcessDirectory::make().unwrap();
        let left = ProcessDirectory::make().unwrap();
        let left_path = left.path.clone();
        // As SIGKILL does: the lock goes, the directory stays.
        let ProcessDirectory { path, _lock } = &left;
        assert!(path.exists() && !is_left(path));
        _lock.unlock().unwrap();
        let next = ProcessDirectory::make().unwrap();
        assert!(!left_path.exists() && living.path.exists() && next.path.exists());
        std::mem::forget(left);
    }

    #[cfg(unix)]
    #[test]
    fn files_and_directories_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt;

        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let directory = ProcessDirectory::make().unwrap();
        assert_eq!(mode(directory.path()), 0o700);
        let file = directory.path().join("new.db");
        make_private(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        make_private(&file).unwrap();
        assert_eq!(mode(&file), 0o640);
    }
}
