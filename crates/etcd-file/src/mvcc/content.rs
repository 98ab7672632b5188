//! What is in a database, and whether it makes sense to etcd.
//!
//! It is a visitor of the structural check, so that the file is read only once.

use super::buckets::{KEY_BUCKET, LEASE_BUCKET, META_BUCKET};
use super::keys::{KeyHasher, KeyObserver, KeyRecord, Keys};
use super::start::{self, Problem};
use super::{DecodeError, KeyValue, RecordKey, Revision};
use crate::bolt::{Bolt, CursorError, Entry, Visitor};
use crate::finding::{Finding, Findings, printable};
use crate::{Failure, ScratchSource};
use crc32c::crc32c_append;

/// Half of the largest possible revision, so that a restore can still raise all revisions. etcd crashes at the largest one.
const MAX_REVISION: i64 = 1 << 62;

/// The content of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The hash that `etcdutl snapshot status` shows: CRC-32C over all buckets, keys and values.
    pub status_hash: u32,
    /// The revision of the last record, which `etcdutl snapshot status` shows; 0 without records.
    pub revision: i64,
    /// The revision at which a member starts from this file: not less than `revision`.
    pub current_revision: i64,
    /// The revision up to which history is compacted, or -1.
    pub compact_revision: i64,
    /// Number of keys with a value at the newest revision.
    pub live_keys: u64,
    /// Number of stored changes, including deletions.
    pub records: u64,
    /// The raft index of the last entry that the file reflects.
    pub consistent_index: Option<u64>,
    /// The storage version, from etcd 3.6 on.
    pub storage_version: Option<String>,
    /// The version that the members agreed on, from etcd 3.5 on.
    pub cluster_version: Option<String>,
    /// Number of members of the cluster that the file comes from.
    pub members: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bucket {
    Key,
    Meta,
    Cluster,
    Members,
    MembersRemoved,
    Alarm,
    Lease,
    Auth,
    AuthUsers,
    AuthRoles,
    Other,
}

/// Collects the content of a database.
pub struct Content<'s> {
    hasher: KeyHasher,
    keys: Keys<'s>,
    chains: Chains,
    bucket: Bucket,
    bucket_name: Vec<u8>,
    has_key_bucket: bool,
    has_meta_bucket: bool,
    status_hash: u32,
    last: Option<Revision>,
    records: u64,
    scheduled_compact: Option<i64>,
    finished_compact: Option<i64>,
    consistent_index: Option<u64>,
    storage_version: Option<String>,
    cluster_version: Option<String>,
    members: u64,
    findings: Findings,
}

impl<'s> Content<'s> {
    /// Starts without any content. Keys that do not fit in memory go to `scratch`.
    pub fn new(scratch: &'s dyn ScratchSource) -> Self {
        Content {
            hasher: KeyHasher::new(),
            keys: Keys::new(scratch),
            chains: Chains::default(),
            bucket: Bucket::Other,
            bucket_name: Vec::new(),
            has_key_bucket: false,
            has_meta_bucket: false,
            status_hash: 0,
            last: None,
            records: 0,
            scheduled_compact: None,
            finished_compact: None,
            consistent_index: None,
            storage_version: None,
            cluster_version: None,
            members: 0,
            findings: Findings::default(),
        }
    }

    /// Completes the check after the walk, and returns the content and its problems.
    ///
    /// # Errors
    /// Why the file or the scratch file could not be read.
    pub fn finish(self, bolt: &Bolt<'_>) -> Result<(Summary, Findings), Failure> {
        let mut findings = self.findings;
        let in_bucket = |bucket: &[u8], problem: String| Finding::error(problem).in_bucket(bucket);
        for (name, exists) in [
            (KEY_BUCKET, self.has_key_bucket),
            (META_BUCKET, self.has_meta_bucket),
        ] {
            if !exists {
                let name = printable(name);
                findings.push(Finding::error(format!(
                    "bucket \"{name}\" is missing: this is not an etcd 3 database"
                )));
            }
        }
        // etcd 3.4 writes it with the first record and not before.
        let no_index = self.consistent_index.is_none_or(|index| index == 0);
        if self.has_meta_bucket && self.records > 0 && no_index {
            findings.push(in_bucket(
                META_BUCKET,
                "consistent_index is missing or 0: no member of a cluster wrote this file".into(),
            ));
        }
        let finished = self.finished_compact.unwrap_or(-1);
        let scheduled = self.scheduled_compact.unwrap_or(-1);
        let revision = self.last.map_or(0, |last| last.main);
        if finished > scheduled {
            let problem = format!(
                "compaction to revision {finished} is finished, but the last one scheduled is {scheduled}"
            );
            findings.push(in_bucket(META_BUCKET, problem).as_warning());
        }

        let Content {
            keys, mut chains, ..
        } = self;
        let mut observer = LiveKeys {
            chains: &mut chains,
            live_keys: 0,
            leases: Leases::new(bolt)?,
        };
        keys.finish(&mut observer)?;
        let LiveKeys {
            live_keys, leases, ..
        } = observer;
        if leases.missing > 0 {
            let problem = format!(
                "{} live keys are attached to leases that do not exist, such as lease {}; these keys never expire",
                leases.missing, leases.example
            );
            findings.push(in_bucket(LEASE_BUCKET, problem).as_warning());
        }
        chains.report(&mut findings);
        let summary = Summary {
            status_hash: self.status_hash,
            revision,
            current_revision: revision.max(finished).max(scheduled).max(1),
            compact_revision: finished.max(scheduled),
            live_keys,
            records: self.records,
            consistent_index: self.consistent_index,
            storage_version: self.storage_version,
            cluster_version: self.cluster_version,
            members: self.members,
        };
        Ok((summary, findings))
    }

    fn record(&mut self, entry: &mut Entry<'_>) -> Result<(), Failure> {
        let (page, offset_bytes) = (entry.page, entry.offset_bytes);
        let mut report = |problem: String| {
            self.findings.push(
                Finding::error(problem)
                    .on_page(page, offset_bytes)
                    .in_bucket(KEY_BUCKET),
            );
        };
        let RecordKey {
            revision,
            tombstone,
        } = match RecordKey::parse(entry.key) {
            Ok(key) => key,
            Err(error) => {
                report(error.to_string());
                return Ok(());
            }
        };
        // The tombstone mark is not part of the revision: both records would be the same change.
        if self.last == Some(revision) {
            report(format!(
                "record of revision {revision}: there are two records of this revision"
            ));
        }
        if revision.main > MAX_REVISION {
            report(format!(
                "record of revision {revision}: the revision is too high for a real cluster, and etcd could not write any more"
            ));
        }
        self.last = Some(revision);
        self.records += 1;
        // A restore with a revision bump writes a marker: a record with an empty value, which stands for the empty key.
        let bump_marker = !tombstone && entry.value.is_empty();
        let kv = match KeyValue::decode(&mut entry.value) {
            Ok(kv) => kv,
            Err(DecodeError::Failed(failure)) => return Err(failure),
            Err(error) => {
                report(format!("record of revision {revision}: {error}"));
                return Ok(());
            }
        };
        if !tombstone && !bump_marker {
            let problem = if kv.mod_revision != revision.main {
                Some(format!(
                    "its mod_revision is {}, expected {}",
                    kv.mod_revision, revision.main
                ))
            } else if kv.create_revision > kv.mod_revision || kv.create_revision < 1 {
                Some(format!(
                    "its create_revision is {}, expected 1 to {}",
                    kv.create_revision, kv.mod_revision
                ))
            } else if kv.version < 1 {
                Some(format!("its version is {}, expected 1 or more", kv.version))
            } else if (kv.version == 1) != (kv.create_revision == kv.mod_revision) {
                Some(format!(
                    "its version is {}, but it was created at revision {}",
                    kv.version, kv.create_revision
                ))
            } else {
                None
            };
            if let Some(problem) = problem {
                report(format!("record of revision {revision}: {problem}"));
            }
        }
        let value = &mut entry.value;
        let key = self
            .hasher
            .hash(|each| value.pieces(kv.key.start, kv.key.end, each))?;
        let record = KeyRecord {
            position: revision.main.cast_unsigned(),
            tombstone,
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
        };
        self.keys.push(key, record, &mut self.chains)
    }

    fn meta(&mut self, entry: &Entry<'_>) {
        let mut report = |problem: String| {
            self.findings.push(
                Finding::error(problem)
                    .on_page(entry.page, entry.offset_bytes)
                    .in_bucket(META_BUCKET),
            );
        };
        let value = entry.value.in_memory().unwrap_or_default();
        match entry.key {
            b"consistent_index" => match value.try_into() {
                Ok(bytes) => self.consistent_index = Some(u64::from_be_bytes(bytes)),
                Err(_) => report(format!(
                    "consistent_index has {} bytes, expected 8",
                    entry.value.len()
                )),
            },
            name @ (b"scheduledCompactRev" | b"finishedCompactRev") => {
                match RecordKey::parse(value) {
                    Ok(key) if key.revision.main > MAX_REVISION => report(format!(
                        "{} is {}: this revision is too high for a real cluster, and etcd could not write any more",
                        printable(name),
                        key.revision.main
                    )),
                    Ok(key) if name == b"scheduledCompactRev" => {
                        self.scheduled_compact = Some(key.revision.main);
                    }
                    Ok(key) => self.finished_compact = Some(key.revision.main),
                    Err(error) => report(format!("{}: {error}", printable(name))),
                }
            }
            b"term" if value.len() != 8 => {
                report(format!("term has {} bytes, expected 8", entry.value.len()));
            }
            b"storageVersion" => {
                self.storage_version = Some(printable(value));
                if let Err(problem) = start::storage_version(value) {
                    self.add(entry, problem);
                }
            }
            _ => {}
        }
    }

    fn member(&mut self, entry: &Entry<'_>) {
        #[derive(serde::Deserialize)]
        struct Member {
            id: u64,
        }
        self.members += 1;
        if let Err(problem) = start::member_id(entry.key) {
            self.add(entry, problem);
            return;
        }
        let value = entry.value.in_memory().unwrap_or_default();
        let problem = match serde_json::from_slice::<Member>(value) {
            Ok(Member { id }) if format!("{id:x}").as_bytes() == entry.key => return,
            Ok(Member { id }) => format!("member {}: its own id is {id:x}", printable(entry.key)),
            Err(error) => format!(
                "member {}: not the expected JSON: {error}",
                printable(entry.key)
            ),
        };
        self.findings.push(
            Finding::error(problem)
                .on_page(entry.page, entry.offset_bytes)
                .in_bucket(&self.bucket_name),
        );
    }

    /// Checks a value that etcd decodes when it starts. The limit here is far above etcd's own limit for a request.
    fn decoded_at_start(&mut self, bucket: Bucket, entry: &mut Entry<'_>) -> Result<(), Failure> {
        const MAX_BYTES: u64 = 16 << 20;
        let (key, len) = (entry.key, entry.value.len());
        let mut value = Vec::new();
        if len <= MAX_BYTES {
            entry
                .value
                .pieces(0, len, |piece| value.extend_from_slice(piece))?;
        } else {
            let problem = format!("the value has {len} bytes, expected at most {MAX_BYTES}");
            self.add(entry, Problem::Error(problem));
            return Ok(());
        }
        let checked = match bucket {
            Bucket::Lease => start::lease(key, &value),
            Bucket::Auth => start::auth(key, &value),
            Bucket::AuthUsers => start::user(key, &value),
            Bucket::AuthRoles => start::role(key, &value),
            Bucket::MembersRemoved => start::member_id(key),
            Bucket::Alarm => {
                start::alarm(key).and_then(|(member, alarm)| Err(alarm_warning(member, alarm)))
            }
            _ => {
                if key == b"clusterVersion" {
                    self.cluster_version = Some(printable(&value));
                }
                start::cluster(key, &value)
            }
        };
        if let Err(problem) = checked {
            self.add(entry, problem);
        }
        Ok(())
    }

    fn add(&mut self, entry: &Entry<'_>, problem: Problem) {
        let finding = match problem {
            Problem::Error(problem) => Finding::error(problem),
            Problem::Warning(problem) => Finding::error(problem).as_warning(),
        };
        self.findings.push(
            finding
                .on_page(entry.page, entry.offset_bytes)
                .in_bucket(&self.bucket_name),
        );
    }
}

fn alarm_warning(member: u64, alarm: u64) -> Problem {
    let name = match alarm {
        1 => "NOSPACE (the database reached its quota)".to_string(),
        2 => "CORRUPT (this member's data differs from the others')".to_string(),
        other => format!("number {other}"),
    };
    Problem::Warning(format!("an alarm is raised for member {member:x}: {name}"))
}

impl Visitor for Content<'_> {
    fn bucket(&mut self, name: &[u8]) {
        self.status_hash = crc32c_append(self.status_hash, name);
        self.bucket = match name {
            KEY_BUCKET => Bucket::Key,
            META_BUCKET => Bucket::Meta,
            LEASE_BUCKET => Bucket::Lease,
            b"cluster" => Bucket::Cluster,
            b"members" => Bucket::Members,
            b"members_removed" => Bucket::MembersRemoved,
            b"alarm" => Bucket::Alarm,
            b"auth" => Bucket::Auth,
            b"authUsers" => Bucket::AuthUsers,
            b"authRoles" => Bucket::AuthRoles,
            _ => Bucket::Other,
        };
        self.bucket_name = name.to_vec();
        self.has_key_bucket |= self.bucket == Bucket::Key;
        self.has_meta_bucket |= self.bucket == Bucket::Meta;
    }

    fn entry(&mut self, mut entry: Entry<'_>) -> Result<(), Failure> {
        let mut hash = crc32c_append(self.status_hash, entry.key);
        let len = entry.value.len();
        entry
            .value
            .pieces(0, len, |piece| hash = crc32c_append(hash, piece))?;
        self.status_hash = hash;
        if entry.is_bucket {
            let name = printable(entry.key);
            let problem = format!(
                "bucket \"{name}\" is inside another bucket, where etcd stores only values"
            );
            self.add(&entry, Problem::Error(problem));
            return Ok(());
        }
        match self.bucket {
            Bucket::Key => self.record(&mut entry)?,
            Bucket::Meta => self.meta(&entry),
            Bucket::Members => self.member(&entry),
            Bucket::Other => {}
            other => self.decoded_at_start(other, &mut entry)?,
        }
        Ok(())
    }
}

/// Checks that each record of a key follows from the record before it.
#[derive(Default)]
struct Chains {
    /// The first problems, for messages. Further problems are only counted.
    broken: Vec<String>,
    broken_records: u64,
}

impl Chains {
    const KEPT: usize = 10;

    fn report(self, findings: &mut Findings) {
        let more = self.broken_records.saturating_sub(self.broken.len() as u64);
        for problem in self.broken {
            findings.push(Finding::error(problem).in_bucket(KEY_BUCKET));
        }
        if more > 0 {
            findings.push(
                Finding::error(format!(
                    "{more} more records do not match the record before them"
                ))
                .in_bucket(KEY_BUCKET),
            );
        }
    }
}

impl KeyObserver for Chains {
    fn record(&mut self, before: Option<&KeyRecord>, record: &KeyRecord) {
        let Some(before) = before else { return };
        let (revision, previous) = (record.position, before.position);
        // The marker of a revision bump has version 0, and nothing follows from it.
        let marker =
            !record.tombstone && record.version == 0 || !before.tombstone && before.version == 0;
        let problem = if marker {
            return;
        } else if record.tombstone && before.tombstone {
            format!(
                "record of revision {revision}: it deletes a key that revision {previous} had already deleted"
            )
        } else if record.tombstone {
            return;
        } else if before.tombstone && record.version != 1 {
            format!(
                "record of revision {revision}: its version is {}, expected 1: revision {previous} had deleted the key",
                record.version
            )
        } else if !before.tombstone && before.version.checked_add(1) != Some(record.version) {
            format!(
                "record of revision {revision}: its version is {}, but the key's previous record, of revision {previous}, has version {}",
                record.version, before.version
            )
        } else if !before.tombstone && record.create_revision != before.create_revision {
            format!(
                "record of revision {revision}: its create_revision is {}, but the key's previous record, of revision {previous}, has create_revision {}",
                record.create_revision, before.create_revision
            )
        } else {
            return;
        };
        self.broken_records += 1;
        if self.broken.len() < Self::KEPT {
            self.broken.push(problem);
        }
    }

    fn newest(&mut self, _: &KeyRecord) -> Result<(), Failure> {
        Ok(())
    }
}

/// Counts the live keys, and looks up their leases.
struct LiveKeys<'c, 'b, 'f> {
    chains: &'c mut Chains,
    live_keys: u64,
    leases: Leases<'b, 'f>,
}

impl KeyObserver for LiveKeys<'_, '_, '_> {
    fn record(&mut self, before: Option<&KeyRecord>, record: &KeyRecord) {
        self.chains.record(before, record);
    }

    fn newest(&mut self, record: &KeyRecord) -> Result<(), Failure> {
        if record.tombstone {
            return Ok(());
        }
        self.live_keys += 1;
        if record.lease != 0 {
            self.leases.look_up(record.lease)?;
        }
        Ok(())
    }
}

/// Looks up leases in their bucket. Remembers the last ones found, because many keys share a lease.
struct Leases<'b, 'f> {
    bucket: Option<crate::bolt::Cursor<'b, 'f>>,
    found: Vec<i64>,
    missing: u64,
    example: String,
}

impl<'b, 'f> Leases<'b, 'f> {
    const REMEMBERED: usize = 4096;

    fn new(bolt: &'b Bolt<'f>) -> Result<Self, Failure> {
        Ok(Leases {
            bucket: tolerate_damage(bolt.cursor(LEASE_BUCKET))?.flatten(),
            found: vec![0; Self::REMEMBERED],
            missing: 0,
            example: String::new(),
        })
    }

    fn look_up(&mut self, lease: i64) -> Result<(), Failure> {
        let place = lease.cast_unsigned() as usize % Self::REMEMBERED;
        if self.found.get(place) == Some(&lease) {
            return Ok(());
        }
        let key = lease.to_be_bytes();
        let exists = match &mut self.bucket {
            None => false,
            Some(bucket) => {
                let found = bucket
                    .seek(&key)
                    .and_then(|()| Ok(bucket.next()?.is_some_and(|item| item.key == key)));
                tolerate_damage(found)?.unwrap_or(false)
            }
        };
        if exists {
            if let Some(found) = self.found.get_mut(place) {
                *found = lease;
            }
        } else {
            self.missing += 1;
            self.example = format!("{lease:x}");
        }
        Ok(())
    }
}

/// Damage is already reported by the structural check. Here it only means that nothing is found.
fn tolerate_damage<T>(result: Result<T, CursorError>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(CursorError::Damaged(_)) => Ok(None),
        Err(CursorError::Failed(failure)) => Err(failure),
    }
}
