use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_int},
    io, mem,
    os::fd::RawFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::system::{self, Identity};

/// The files that our SQLite has opened in this process.
static FILES: Mutex<Files> = Mutex::new(Files {
    files: BTreeMap::new(),
    descriptors: BTreeMap::new(),
});

pub(super) fn lock() -> MutexGuard<'static, Files> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct Files {
    files: BTreeMap<Identity, File>,
    /// Whether SQLite uses them or they are kept.
    descriptors: BTreeMap<RawFd, Descriptor>,
}

struct File {
    path: CString,
    /// Has all our locks, and is nothing else: what is mapped into memory outlives its closing in a
    /// child, and its locks with it.
    locking: Option<RawFd>,
    /// How many descriptors SQLite uses.
    used: usize,
    /// What SQLite has closed.
    kept: Vec<RawFd>,
}

#[derive(Clone, Copy)]
struct Descriptor {
    identity: Identity,
    is_writable: bool,
}

impl Files {
    pub(super) fn open(&mut self, path: &CStr, flags: c_int, mode: c_int) -> io::Result<RawFd> {
        // A new file, of nobody else.
        if flags & libc::O_EXCL != 0 {
            return system::open(path, flags, mode);
        }
        let is_writable = flags & libc::O_ACCMODE == libc::O_RDWR;
        if let Some(kept) = self.take_kept(path, is_writable) {
            return Ok(kept);
        }
        let descriptor = system::open(path, flags, mode)?;
        if let Some(identity) = system::identity(descriptor)? {
            let file = self.files.entry(identity).or_insert_with(|| File {
                path: path.to_owned(),
                locking: None,
                used: 0,
                kept: Vec::new(),
            });
            file.used += 1;
            let opened = Descriptor {
                identity,
                is_writable,
            };
            self.descriptors.insert(descriptor, opened);
        }
        Ok(descriptor)
    }

    fn take_kept(&mut self, path: &CStr, is_writable: bool) -> Option<RawFd> {
        let file = self.files.get_mut(&system::identity_at(path)?)?;
        let fits = |kept| self.descriptors[kept].is_writable == is_writable;
        let kept = file.kept.iter().position(fits)?;
        file.used += 1;
        Some(file.kept.swap_remove(kept))
    }

    pub(super) fn close(&mut self, descriptor: RawFd) -> io::Result<()> {
        let known = self.descriptors.get(&descriptor);
        match known.and_then(|known| self.files.get_mut(&known.identity)) {
            Some(file) => {
                file.used -= 1;
                file.kept.push(descriptor);
                self.close_unused();
                Ok(())
            }
            None => system::close(descriptor),
        }
    }

    /// Closes the files that nobody uses, neither here nor elsewhere.
    fn close_unused(&mut self) {
        let descriptors = &mut self.descriptors;
        self.files.retain(|_, file| {
            let is_unused = file.used == 0 && file.lock_all(descriptors);
            if is_unused {
                for kept in mem::take(&mut file.kept) {
                    descriptors.remove(&kept);
                    drop(system::close(kept));
                }
                // Last: with it goes the lock that kept the others away until now.
                if let Some(locking) = file.locking {
                    drop(system::close(locking));
                }
            }
            !is_unused
        });
    }

    /// The descriptor that has the locks of the file of `descriptor`.
    pub(super) fn locking_descriptor(&mut self, descriptor: RawFd) -> io::Result<RawFd> {
        let known = self.descriptors.get(&descriptor);
        let unknown = || io::Error::from_raw_os_error(libc::EBADF);
        let identity = known.ok_or_else(unknown)?.identity;
        let file = self.files.get_mut(&identity).ok_or_else(unknown)?;
        if let Some(locking) = file.locking {
            return Ok(locking);
        }
        let flags = libc::O_CLOEXEC | libc::O_NOFOLLOW;
        let locking = system::open(&file.path, libc::O_RDWR | flags, 0)
            .or_else(|_| system::open(&file.path, libc::O_RDONLY | flags, 0))?;
        if system::identity(locking)? != Some(identity) {
            // Another file stands there now. What was opened stays so: to close it may drop locks.
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        file.locking = Some(locking);
        Ok(locking)
    }

    /// In a child: the parent goes on with its files, and with its locks, which this process would
    /// hold too, even beyond the parent's end.
    pub(super) fn forget(&mut self) {
        self.descriptors.clear();
        for file in mem::take(&mut self.files).into_values() {
            // A child has no POSIX locks yet that this could drop.
            if let Some(locking) = file.locking {
                drop(system::close(locking));
            }
        }
    }
}

impl File {
    /// Whether nobody but us has a lock on it; nor can get one then.
    fn lock_all(&self, descriptors: &BTreeMap<RawFd, Descriptor>) -> bool {
        let is_writable = |kept: &&RawFd| descriptors[kept].is_writable;
        let writable = || self.kept.iter().find(is_writable).or(self.kept.first());
        match self.locking.as_ref().or_else(writable) {
            Some(&descriptor) => system::unlock(descriptor).is_ok() && system::lock_all(descriptor),
            None => true,
        }
    }
}
