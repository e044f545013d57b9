//! What the ferry writes down of its messages, and what it counts.

use crate::envelope::{Reply, Request};
use crate::hops::HopKind;
use bytes::Bytes;
use wharf_core::bus::Place;
use wharf_core::head::RequestHead;

/// See the head of the file.
#[derive(Default)]
pub struct Recorder {}

impl Recorder {
    pub(crate) fn accepted(&self, _node: &str, _request: &Request, _head: &RequestHead, _partition: u32) {}
    pub(crate) fn sent(&self, _id: u64, _node: &str, _place: Place) {}
    pub(crate) fn hop(&self, _id: u64, _kind: HopKind, _node: &str, _time_us: u64, _why: &str) {}
    pub(crate) fn came_home(&self, _reply: &Reply) {}
    pub(crate) fn keep(&self, _node: &str, _reply: &Reply, _written: Option<&Bytes>) {}
    pub(crate) fn answers_read(&self, _lane: &str, _offset: u64) {}
    pub(crate) fn count_foreign(&self) {}
    pub(crate) fn count_unreadable(&self, _topic: &str) {}
    pub(crate) fn count_parked(&self, _topic: &str) {}
    pub(crate) fn gap(&self, _topic: &str, _lost: u64) {}
    pub(crate) fn far(&self, _node: &str, _request: &Request, _reply: &Reply) {}
    pub(crate) async fn flush(&self) {}
}
