//! The ferry: requests and answers as messages. The only room that knows order, settlement, waiters and the journal.
