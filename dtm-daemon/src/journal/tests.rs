use std::{cell::RefCell, rc::Rc};

use super::*;

/// Memory that outlives its journal.
#[derive(Clone, Debug, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

struct Mapped {
    shared: Shared,
    bytes: Vec<u8>,
}

impl Region for Mapped {
    fn size(&self) -> usize {
        self.bytes.len()
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    fn set_word(&mut self, at: usize, value: u64) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        // What was written before is there by now.
        self.shared.0.borrow_mut().clone_from(&self.bytes);
    }
}

/// The memory that is found, and how much of it there may be.
#[derive(Clone)]
struct Shelf {
    found: Rc<RefCell<Option<Shared>>>,
    most: usize,
}

impl Shelf {
    fn new(most: usize) -> Self {
        Self {
            found: Rc::default(),
            most,
        }
    }

    /// What whoever comes next finds.
    fn found(&self) -> Entries {
        let shared = self.found.borrow().clone().expect("one was published");
        let bytes = shared.0.borrow().clone();
        let region = Mapped { shared, bytes };
        Journal::open(self.clone(), region).unwrap().1
    }
}

impl Place for Shelf {
    type Region = Mapped;

    fn make(&self, bytes: usize) -> io::Result<Mapped> {
        if bytes > self.most {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(Mapped {
            shared: Shared::default(),
            bytes: vec![0; bytes],
        })
    }

    fn publish(&self, region: &Mapped) -> io::Result<()> {
        *self.found.borrow_mut() = Some(region.shared.clone());
        Ok(())
    }
}

fn entries(pairs: &[(&str, &str)]) -> Entries {
    let pairs = pairs.iter();
    pairs
        .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect()
}

#[test]
fn only_what_was_committed_is_found() {
    let shelf = Shelf::new(1 << 20);
    let mut journal = Journal::new(shelf.clone()).unwrap();
    assert!(shelf.found.borrow().is_none());
    journal.put("one", b"1").unwrap();
    journal.put("two", b"2").unwrap();
    journal.commit().unwrap();
    journal.put("one", b"another").unwrap();
    journal.remove("two").unwrap();
    journal.see(7);
    assert_eq!(shelf.found(), entries(&[("one", "1"), ("two", "2")]));
    journal.commit().unwrap();
    assert_eq!(shelf.found(), entries(&[("one", "another")]));
}

#[test]
fn what_does_not_fit_moves_to_other_memory_at_a_commit_only() {
    let shelf = Shelf::new(1 << 24);
    let mut journal = Journal::new(shelf.clone()).unwrap();
    let mut expected = Entries::new();
    journal.commit().unwrap();
    let before = journal.size();
    for round in 0..400_u32 {
        let name = format!("name {}", round % 50);
        let text = vec![round as u8; 1000 + round as usize];
        journal.put(&name, &text).unwrap();
        assert_eq!(shelf.found(), expected, "nothing of this round is valid yet");
        if round % 7 == 0 {
            journal.remove("name 7").unwrap();
            expected.remove("name 7");
        }
        journal.commit().unwrap();
        expected.insert(name.clone(), text);
        if round % 7 == 0 && name == "name 7" {
            expected.remove("name 7");
        }
        assert_eq!(shelf.found(), expected);
    }
    assert!(journal.size() > before);
    assert!(
        journal.size() <= 2 * (FIRST + 50 * 1500) + LEAST,
        "it does not grow with what has been: {}",
        journal.size()
    );
}

#[test]
fn a_text_that_is_the_same_takes_no_room() {
    let mut journal = Journal::new(Shelf::new(1 << 20)).unwrap();
    journal.put("one", b"1").unwrap();
    let end = journal.end;
    journal.put("one", b"1").unwrap();
    journal.remove("two").unwrap();
    assert_eq!(journal.end, end);
    journal.put("empty", b"").unwrap();
    assert_eq!(journal.index["empty"].len(), 0);
}

#[test]
fn without_more_memory_what_was_valid_stays() {
    let shelf = Shelf::new(LEAST);
    let mut journal = Journal::new(shelf.clone()).unwrap();
    journal.put("one", b"1").unwrap();
    journal.commit().unwrap();
    journal.put("two", &vec![b'x'; 2 * LEAST]).unwrap_err();
    assert_eq!(shelf.found(), entries(&[("one", "1")]));
}

#[test]
fn what_is_no_journal_is_refused() {
    let shelf = Shelf::new(1 << 20);
    let mut journal = Journal::new(shelf.clone()).unwrap();
    journal.put("one", b"text").unwrap();
    journal.put("two", b"text").unwrap();
    journal.commit().unwrap();
    let whole = shelf.found.borrow().clone().unwrap().0.borrow().clone();
    let open = |bytes: Vec<u8>| {
        let region = Mapped {
            shared: Shared::default(),
            bytes,
        };
        Journal::open(shelf.clone(), region).map(|(_journal, entries)| entries)
    };
    assert!(open(Vec::new()).is_err());
    assert!(open(vec![0; LEAST]).is_err());
    let mut other = whole.clone();
    other[0] ^= 1;
    assert!(open(other).is_err(), "another version");
    let end = usize::try_from(u64::from_ne_bytes(whole[END_AT..END_AT + 8].try_into().unwrap())).unwrap();
    for at in FIRST..end {
        let mut torn = whole.clone();
        torn[at] = 0xff;
        // Whatever it says, it is read without harm.
        drop(open(torn));
    }
    for short in [END_AT, FIRST, FIRST + 3, end - 8] {
        let mut torn = whole.clone();
        torn[END_AT..END_AT + 8].copy_from_slice(&(short as u64 + 1).to_ne_bytes());
        assert!(open(torn).is_err(), "its end is within an entry");
    }
    let mut long = whole.clone();
    long[END_AT..END_AT + 8].copy_from_slice(&u64::MAX.to_ne_bytes());
    assert!(open(long).is_err());
    assert_eq!(open(whole).unwrap(), entries(&[("one", "text"), ("two", "text")]));
}

#[test]
fn it_goes_on_where_the_last_one_ended() {
    let shelf = Shelf::new(1 << 20);
    let mut journal = Journal::new(shelf.clone()).unwrap();
    journal.put("one", b"1").unwrap();
    journal.commit().unwrap();
    journal.see(5);
    let shared = shelf.found.borrow().clone().unwrap();
    let bytes = shared.0.borrow().clone();
    let (mut journal, found) = Journal::open(shelf.clone(), Mapped { shared, bytes }).unwrap();
    assert_eq!((found, journal.seen()), (entries(&[("one", "1")]), 5));
    journal.put("two", b"2").unwrap();
    journal.commit().unwrap();
    assert_eq!(shelf.found(), entries(&[("one", "1"), ("two", "2")]));
}
