//! The list of drafts that wait for a clinician, and of the reports signed last.
//!
//! Place: between the feed (Kafka records) and the pages. Invariant: bounded in every part; a draft is signed by one person
//! at a time, and leaves the list only when it is signed, rejected, or pushed out by a newer one while the list is full. The
//! place of a record is handed back ([`Worklist::take_done`]) only then, so a restart reads again what still waits.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ecg::report::{DraftReport, SignedReport};
use ecg::segment::Segment;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// Where a record lies on its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// How much fits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Drafts that wait.
    pub waiting: usize,
    /// Segments whose draft has not come.
    pub segments: usize,
    /// Signed reports that can be amended.
    pub recent: usize,
    /// Ids of signed drafts.
    pub remembered: usize,
}

/// A draft with its tracing, as the pages show it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The draft.
    pub draft: Arc<DraftReport>,
    /// The samples; none while they have not come, or when they are not those of the draft.
    pub segment: Option<Arc<Segment>>,
    /// The signature that holds, for a report that was signed already.
    pub signed: Option<Arc<SignedReport>>,
    /// When it came to this page, microseconds since the Unix epoch.
    came_us: i64,
    /// When somebody first opened it here.
    opened: Option<Instant>,
    order: u64,
    busy: bool,
    places: Vec<Place>,
}

impl Entry {
    /// True when an urgent reading was asked for.
    pub fn is_stat(&self) -> bool {
        self.segment.as_ref().is_some_and(|segment| segment.stat)
    }

    /// Time since somebody first opened it here.
    pub fn open_for(&self) -> Option<Duration> {
        self.opened.map(|opened| opened.elapsed())
    }
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Grows with every change of the list.
    pub revision: u64,
    /// Drafts that wait.
    pub waiting: usize,
    /// Urgent ones among them.
    pub stat: usize,
    /// Drafts that were pushed out unread since the start.
    pub pushed_out: u64,
    /// When the oldest routine draft and the oldest urgent one came, microseconds since the Unix epoch; 0 for none.
    pub oldest_us: [i64; 2],
}

/// Why a draft cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such draft waits or was signed lately.
    #[error("this draft is no longer here; it was signed elsewhere, or newer drafts pushed it out of the list")]
    Gone,
    /// Another signature is on its way.
    #[error("this draft is being signed right now")]
    Busy,
    /// The page that was signed showed an older state.
    #[error("this report was signed in the meantime; read that version first")]
    Stale,
}

/// The list; clones share it.
#[derive(Clone)]
pub struct Worklist {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<watch::Sender<Counts>>,
    metrics: Metrics,
}

struct Inner {
    limits: Limits,
    /// By draft id.
    waiting: HashMap<String, Entry>,
    /// Segments without a draft, by segment id.
    segments: HashMap<String, (u64, Arc<Segment>, Place)>,
    /// Signed, oldest first.
    recent: VecDeque<Entry>,
    signed: HashSet<String>,
    signed_order: VecDeque<String>,
    done: Vec<Place>,
    orders: u64,
    counts: Counts,
}

impl Worklist {
    /// An empty list.
    pub fn new(limits: Limits, metrics: Metrics) -> Self {
        let inner = Inner {
            limits,
            waiting: HashMap::new(),
            segments: HashMap::new(),
            recent: VecDeque::new(),
            signed: HashSet::new(),
            signed_order: VecDeque::new(),
            done: Vec::new(),
            orders: 0,
            counts: Counts::default(),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            changed: Arc::new(watch::channel(Counts::default()).0),
            metrics,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }

    /// Tells the listeners what the list has become.
    fn publish(&self, mut inner: MutexGuard<'_, Inner>) {
        inner.counts.revision += 1;
        inner.counts.waiting = inner.waiting.len();
        inner.counts.stat = inner.waiting.values().filter(|entry| entry.is_stat()).count();
        inner.counts.oldest_us = [false, true].map(|stat| {
            let alike = inner.waiting.values().filter(|entry| entry.is_stat() == stat);
            alike.map(|entry| entry.came_us).min().unwrap_or(0)
        });
        let counts = inner.counts;
        drop(inner);
        self.metrics.set_counts(counts);
        self.changed.send_replace(counts);
    }

    /// A receiver of the counts; it sees every change, and the last one where there were several.
    pub fn subscribe(&self) -> watch::Receiver<Counts> {
        self.changed.subscribe()
    }

    /// How much waits.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Takes a draft in; one that waits already, or is signed, changes nothing.
    pub fn add_draft(&self, draft: DraftReport, place: Place) {
        let mut inner = self.lock();
        if inner.waiting.contains_key(&draft.draft_id) || inner.signed.contains(&draft.draft_id) {
            inner.done.push(place);
            return;
        }
        let mut places = vec![place];
        let held = inner.segments.remove(&draft.segment_id).map(|(_, segment, place)| {
            places.push(place);
            segment
        });
        // two bundles may draft on one segment
        let segment = held.or_else(|| inner.tracing_of(&draft.segment_id));
        let entry = Entry {
            segment: segment.filter(|segment| belongs(segment, &draft)),
            came_us: service::time::now_us(),
            opened: None,
            order: inner.next_order(),
            draft: Arc::new(draft),
            signed: None,
            busy: false,
            places,
        };
        inner.waiting.insert(entry.draft.draft_id.clone(), entry);
        inner.push_out();
        self.publish(inner);
    }

    /// Takes a segment in: for the draft that waits for it, or for one that is still to come.
    pub fn add_segment(&self, segment: Segment, place: Place) {
        let mut inner = self.lock();
        let segment = Arc::new(segment);
        let mut waits = false;
        for entry in inner.waiting.values_mut() {
            if entry.draft.segment_id != segment.id {
                continue;
            }
            waits = true;
            entry.places.push(place.clone());
            if entry.segment.is_none() && belongs(&segment, &entry.draft) {
                entry.segment = Some(Arc::clone(&segment));
            }
        }
        if waits {
            return self.publish(inner);
        }
        let order = inner.next_order();
        let replaced = inner.segments.insert(segment.id.clone(), (order, segment, place));
        inner.done.extend(replaced.map(|(_, _, place)| place));
        if inner.segments.len() > inner.limits.segments {
            let oldest = inner.segments.iter().min_by_key(|(_, (order, _, _))| *order);
            let oldest = oldest.map(|(id, _)| id.clone());
            let oldest = oldest.and_then(|id| inner.segments.remove(&id));
            inner.done.extend(oldest.map(|(_, _, place)| place));
        }
    }

    /// Takes in the signature for which a draft was claimed.
    pub fn finish(&self, report: SignedReport) {
        self.release(&report.draft_id);
        self.add_signed(report);
    }

    /// Takes a signature in, from here or from elsewhere: the draft leaves the list for the reports signed last. Of two
    /// signatures with one version the last holds.
    pub fn add_signed(&self, report: SignedReport) {
        let mut inner = self.lock();
        inner.remember(&report.draft_id);
        let entry = match inner.waiting.remove(&report.draft_id) {
            Some(mut entry) => {
                inner.done.append(&mut entry.places);
                Some(entry)
            }
            None => {
                let at = inner
                    .recent
                    .iter()
                    .position(|entry| entry.draft.draft_id == report.draft_id);
                at.and_then(|at| inner.recent.remove(at))
            }
        };
        if let Some(mut entry) = entry {
            if entry.signed.as_ref().is_none_or(|held| held.version <= report.version) {
                entry.signed = Some(Arc::new(report));
            }
            inner.recent.push_back(entry);
            while inner.recent.len() > inner.limits.recent {
                inner.recent.pop_front();
            }
        }
        self.publish(inner);
    }

    /// Remembers a draft as signed, so that it does not wait when it is read again.
    pub fn remember_signed(&self, draft_id: &str) {
        self.lock().remember(draft_id);
    }

    /// Drafts that wait: urgent ones first, each kind in the order of its coming.
    pub fn waiting(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.lock().waiting.values().cloned().collect();
        entries.sort_by_key(|entry| (!entry.is_stat(), entry.order));
        entries
    }

    /// Reports signed last, the newest first.
    pub fn recent(&self) -> Vec<Entry> {
        self.lock().recent.iter().rev().cloned().collect()
    }

    /// A draft that waits or was signed lately.
    pub fn find(&self, draft_id: &str) -> Option<Entry> {
        let inner = self.lock();
        let recent = || inner.recent.iter().find(|entry| entry.draft.draft_id == draft_id);
        inner.waiting.get(draft_id).or_else(recent).cloned()
    }

    /// Notes that somebody reads a draft.
    pub fn open(&self, draft_id: &str) {
        if let Some(entry) = self.lock().entry_mut(draft_id) {
            entry.opened.get_or_insert_with(Instant::now);
        }
    }

    /// Claims a draft for one signature of `version`; it is given back by [`Worklist::release`] or leaves by
    /// [`Worklist::finish`].
    ///
    /// # Errors
    /// [`Refusal`] when it is gone, claimed, or was signed since the page was made.
    pub fn claim(&self, draft_id: &str, version: u32) -> Result<Entry, Refusal> {
        let mut inner = self.lock();
        let entry = inner.entry_mut(draft_id).ok_or(Refusal::Gone)?;
        let next = entry.signed.as_ref().map_or(1, |held| held.version + 1);
        if next != version {
            return Err(Refusal::Stale);
        }
        if std::mem::replace(&mut entry.busy, true) {
            return Err(Refusal::Busy);
        }
        Ok(entry.clone())
    }

    /// Gives a claimed draft back, unsigned.
    pub fn release(&self, draft_id: &str) {
        if let Some(entry) = self.lock().entry_mut(draft_id) {
            entry.busy = false;
        }
    }

    /// Places of records that nothing here needs any more, since the last call.
    pub fn take_done(&self) -> Vec<Place> {
        std::mem::take(&mut self.lock().done)
    }
}

impl Inner {
    fn next_order(&mut self) -> u64 {
        self.orders += 1;
        self.orders
    }

    /// The samples of a segment, where another draft has them.
    fn tracing_of(&self, segment_id: &str) -> Option<Arc<Segment>> {
        let mut entries = self.waiting.values().chain(&self.recent);
        let other = entries.find(|entry| entry.draft.segment_id == segment_id && entry.segment.is_some());
        other.and_then(|entry| entry.segment.clone())
    }

    fn entry_mut(&mut self, draft_id: &str) -> Option<&mut Entry> {
        if self.waiting.contains_key(draft_id) {
            return self.waiting.get_mut(draft_id);
        }
        self.recent.iter_mut().find(|entry| entry.draft.draft_id == draft_id)
    }

    /// Drops the oldest draft that is not urgent, or the oldest of all, while there are too many; one that is being signed
    /// stays.
    fn push_out(&mut self) {
        while self.waiting.len() > self.limits.waiting {
            let free = self.waiting.values().filter(|entry| !entry.busy);
            let Some(oldest) = free.min_by_key(|entry| (entry.is_stat(), entry.order)) else {
                return;
            };
            let id = oldest.draft.draft_id.clone();
            if let Some(entry) = self.waiting.remove(&id) {
                self.done.extend(entry.places);
                self.counts.pushed_out += 1;
            }
        }
    }

    fn remember(&mut self, draft_id: &str) {
        if !self.signed.insert(draft_id.to_owned()) {
            return;
        }
        self.signed_order.push_back(draft_id.to_owned());
        while self.signed_order.len() > self.limits.remembered {
            if let Some(oldest) = self.signed_order.pop_front() {
                self.signed.remove(&oldest);
            }
        }
    }
}

/// True when the samples are those that the draft was written on.
fn belongs(segment: &Segment, draft: &DraftReport) -> bool {
    segment.samples_sha256 == draft.segment_sha256
}

#[cfg(test)]
mod tests {
    use ecg::topic;

    use super::*;
    use crate::testing::{draft, list, place, segment, signed};

    /// A draft and its segment, in this order or the other.
    fn add(list: &Worklist, bed: &str, start: i64, stat: bool) -> String {
        let mut segment = segment(bed, start);
        segment.stat = stat;
        let draft = draft(&segment, Some("sinus rhythm"));
        let id = draft.draft_id.clone();
        if start % 10_000 == 0 {
            list.add_segment(segment, place(topic::SEGMENTS, start));
            list.add_draft(draft, place(topic::REPORTS, start));
        } else {
            list.add_draft(draft, place(topic::REPORTS, start));
            list.add_segment(segment, place(topic::SEGMENTS, start));
        }
        id
    }

    fn ids(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(|entry| entry.draft.draft_id.clone()).collect()
    }

    #[test]
    fn urgent_drafts_come_first_and_each_kind_in_the_order_of_its_coming() {
        let list = list(9);
        let first = add(&list, "bed-01", 0, false);
        let second = add(&list, "bed-02", 5000, false);
        let urgent = add(&list, "bed-03", 10_000, true);
        assert_eq!(ids(&list.waiting()), [urgent, first, second]);
        assert!(list.waiting().iter().all(|entry| entry.segment.is_some()));
        assert_eq!((list.counts().waiting, list.counts().stat), (3, 1));
        let [routine, stat] = list.counts().oldest_us;
        assert!(0 < routine && routine <= stat, "{routine} {stat}");
    }

    #[test]
    fn samples_that_are_not_those_of_the_draft_are_not_shown() {
        let list = list(9);
        let segment = segment("bed-01", 0);
        let mut draft = draft(&segment, None);
        draft.segment_sha256 = "other".to_owned();
        list.add_draft(draft, place(topic::REPORTS, 1));
        list.add_segment(segment, place(topic::SEGMENTS, 1));
        assert!(list.waiting()[0].segment.is_none());
    }

    #[test]
    fn a_full_list_drops_the_oldest_that_is_not_urgent_and_counts_it() {
        let list = list(2);
        let urgent = add(&list, "bed-01", 0, true);
        add(&list, "bed-02", 10_000, false);
        let newest = add(&list, "bed-03", 20_000, false);
        assert_eq!(ids(&list.waiting()), [urgent, newest]);
        assert_eq!(list.counts().pushed_out, 1);
        let done = [place(topic::REPORTS, 10_000), place(topic::SEGMENTS, 10_000)];
        assert_eq!(list.take_done(), done);
    }

    #[test]
    fn segments_without_a_draft_are_bounded() {
        let list = list(2);
        for start in [0, 5000, 10_000] {
            list.add_segment(segment("bed-01", start), place(topic::SEGMENTS, start));
        }
        assert_eq!(list.take_done(), [place(topic::SEGMENTS, 0)]);
    }

    #[test]
    fn a_signed_draft_leaves_the_list_and_does_not_come_back() {
        let list = list(9);
        let id = add(&list, "bed-01", 0, false);
        let entry = list.claim(&id, 1).unwrap();
        assert_eq!(list.claim(&id, 1).unwrap_err(), Refusal::Busy);
        list.finish(signed(&entry.draft, 1));
        assert!(list.waiting().is_empty());
        assert_eq!(list.take_done().len(), 2);
        list.add_draft((*entry.draft).clone(), place(topic::REPORTS, 99));
        assert!(list.waiting().is_empty());
        assert_eq!(list.take_done(), [place(topic::REPORTS, 99)]);
        assert_eq!(ids(&list.recent()), [id]);
    }

    #[test]
    fn a_released_draft_can_be_claimed_again_and_an_old_page_cannot_sign() {
        let list = list(9);
        let id = add(&list, "bed-01", 0, false);
        list.claim(&id, 1).unwrap();
        list.release(&id);
        let entry = list.claim(&id, 1).unwrap();
        list.finish(signed(&entry.draft, 1));
        assert_eq!(list.claim(&id, 1).unwrap_err(), Refusal::Stale);
        list.claim(&id, 2).unwrap();
        // the topic brings the first signature back while the second is on its way
        list.add_signed(signed(&entry.draft, 1));
        assert_eq!(list.claim(&id, 2).unwrap_err(), Refusal::Busy);
        list.finish(signed(&entry.draft, 2));
        let version = list.find(&id).unwrap().signed.unwrap().version;
        assert_eq!(version, 2);
        assert_eq!(list.claim("other", 1).unwrap_err(), Refusal::Gone);
    }

    #[test]
    fn two_drafts_on_one_segment_share_its_tracing() {
        let list = list(9);
        add(&list, "bed-01", 0, false);
        let mut second = draft(&segment("bed-01", 0), Some("normal ecg"));
        second.draft_id = "of another bundle".to_owned();
        list.add_draft(second, place(topic::REPORTS, 7));
        assert!(list.waiting().iter().all(|entry| entry.segment.is_some()));
    }

    #[test]
    fn listeners_hear_of_every_change() {
        let list = list(9);
        let listener = list.subscribe();
        let before = listener.borrow().revision;
        add(&list, "bed-01", 0, true);
        assert!(listener.borrow().revision > before);
        assert_eq!(listener.borrow().stat, 1);
    }
}
