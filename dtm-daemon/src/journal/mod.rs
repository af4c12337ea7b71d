//! What outlives the daemon beside the kernel's counters: entries of text by name, in memory that stays.
//!
//! Changes are appended behind what is valid, and made valid together by one store of where they end: whenever the process
//! is killed, the next one finds all of them or none. Where the memory is full, what is still of use is written into other
//! memory, which takes the first one's place.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    ops::Range,
};

/// How a journal begins. The last digit is the version of its framing.
const MAGIC: u64 = u64::from_be_bytes(*b"dtmlog:1");
/// Where that is, where the end of what is valid is, and when somebody was last here.
const MAGIC_AT: usize = 0;
const END_AT: usize = 8;
const SEEN_AT: usize = 16;
/// Where the entries begin.
const FIRST: usize = 64;
/// What precedes an entry: the lengths of its name and of its text, 32 bits each.
const FRAME: usize = 8;
/// In the place of a text's length: the name has none any more.
const GONE: u32 = u32::MAX;
/// The least memory for one.
const LEAST: usize = 64 << 10;

/// Memory for a journal.
pub trait Region {
    /// How many bytes it has.
    fn size(&self) -> usize;
    /// All of it.
    fn bytes(&mut self) -> &mut [u8];
    /// The word at a multiple of eight.
    fn word(&self, at: usize) -> u64;
    /// Sets it at once, after everything that was written before.
    fn set_word(&mut self, at: usize, value: u64);
}

/// Where journals are.
pub trait Place {
    /// Memory.
    type Region: Region;
    /// New memory, all zero, that nobody finds yet.
    fn make(&self, bytes: usize) -> io::Result<Self::Region>;
    /// Has whoever comes next find this one, and none but this.
    fn publish(&self, region: &Self::Region) -> io::Result<()>;
}

/// A journal that is written to.
pub struct Journal<P: Place> {
    place: P,
    region: P::Region,
    /// Where the next entry goes; what is before the end that was stored is valid.
    end: usize,
    is_changed: bool,
    /// Whether this memory is what whoever comes next finds.
    is_published: bool,
    /// Where the text of each name is.
    index: HashMap<String, Range<usize>>,
    /// Bytes of the entries in `index`.
    live: usize,
}

/// What a journal says.
pub type Entries = BTreeMap<String, Vec<u8>>;

impl<P: Place> Journal<P> {
    /// A new one, which nobody finds before its first commit.
    pub fn new(place: P) -> io::Result<Self> {
        let region = begin(&place, LEAST)?;
        Ok(Self {
            place,
            region,
            end: FIRST,
            is_changed: true,
            is_published: false,
            index: HashMap::new(),
            live: 0,
        })
    }

    /// Goes on with one, and gives what it says.
    ///
    /// # Errors
    ///
    /// Where it is none, or not whole: `InvalidData`.
    pub fn open(place: P, mut region: P::Region) -> io::Result<(Self, Entries)> {
        let (index, end) = read(&mut region)?;
        let bytes = region.bytes();
        let entries = index
            .iter()
            .map(|(name, text)| (name.clone(), bytes[text.clone()].to_vec()));
        let entries = entries.collect();
        let live = index.iter().map(|(name, text)| size(name, text.len())).sum();
        let journal = Self {
            place,
            region,
            end,
            is_changed: false,
            is_published: true,
            index,
            live,
        };
        Ok((journal, entries))
    }

    /// Gives a name this text from the next commit on.
    ///
    /// # Errors
    ///
    /// Where there is no more memory: the journal says then what it said at the last commit.
    pub fn put(&mut self, name: &str, text: &[u8]) -> io::Result<()> {
        let known = self.index.get(name).cloned();
        if let Some(known) = &known
            && self.region.bytes()[known.clone()] == *text
        {
            return Ok(());
        }
        let length = u32::try_from(text.len()).ok().filter(|length| *length != GONE);
        let length = length.ok_or(io::ErrorKind::FileTooLarge)?;
        let at = self.append(name, length, text)?;
        let gone = self.index.insert(name.to_owned(), at..at + text.len());
        self.live += size(name, text.len());
        self.live -= gone.map_or(0, |gone| size(name, gone.len()));
        Ok(())
    }

    /// Takes a name out from the next commit on.
    ///
    /// # Errors
    ///
    /// As of [`put`](Self::put).
    pub fn remove(&mut self, name: &str) -> io::Result<()> {
        if !self.index.contains_key(name) {
            return Ok(());
        }
        self.append(name, GONE, &[])?;
        if let Some(gone) = self.index.remove(name) {
            self.live -= size(name, gone.len());
        }
        Ok(())
    }

    /// Makes everything since the last time valid at once.
    ///
    /// # Errors
    ///
    /// Where other memory cannot take the place of what was full: whoever comes next finds what was valid before.
    pub fn commit(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.is_changed) {
            self.region.set_word(END_AT, self.end as u64);
        }
        if !self.is_published {
            self.place.publish(&self.region)?;
            self.is_published = true;
        }
        Ok(())
    }

    /// Notes that somebody is here at this time, in nanoseconds of a clock of the caller's.
    pub fn see(&mut self, time: u64) {
        self.region.set_word(SEEN_AT, time);
    }

    /// When somebody was last here.
    pub fn seen(&self) -> u64 {
        self.region.word(SEEN_AT)
    }

    /// Bytes of memory it takes.
    pub fn size(&self) -> usize {
        self.region.size()
    }

    /// Appends an entry and says where its text is.
    fn append(&mut self, name: &str, length: u32, text: &[u8]) -> io::Result<usize> {
        let needed = size(name, text.len());
        if self.end + needed > self.region.size() {
            self.renew(needed)?;
        }
        let at = self.end;
        let bytes = self.region.bytes();
        write(bytes, at, name, length, text);
        self.end += needed;
        self.is_changed = true;
        Ok(at + FRAME + name.len())
    }

    /// Writes what is of use into other memory, with some to spare. It takes the first one's place at the next
    /// commit.
    fn renew(&mut self, needed: usize) -> io::Result<()> {
        // Half as much again, so that this is seldom done.
        let room = FIRST + (self.live + needed) * 3 / 2 + LEAST;
        let mut region = begin(&self.place, room)?;
        let mut end = FIRST;
        let mut index = HashMap::with_capacity(self.index.len());
        let old = self.region.bytes();
        for (name, text) in &self.index {
            let text = &old[text.clone()];
            write(region.bytes(), end, name, text.len() as u32, text);
            let at = end + FRAME + name.len();
            index.insert(name.clone(), at..at + text.len());
            end += size(name, text.len());
        }
        region.set_word(SEEN_AT, self.region.word(SEEN_AT));
        (self.region, self.index, self.end) = (region, index, end);
        self.is_published = false;
        Ok(())
    }
}

/// Bytes of an entry, a multiple of eight.
fn size(name: &str, text: usize) -> usize {
    (FRAME + name.len() + text).next_multiple_of(8)
}

fn begin<P: Place>(place: &P, bytes: usize) -> io::Result<P::Region> {
    let mut region = place.make(bytes)?;
    region.set_word(END_AT, FIRST as u64);
    region.set_word(MAGIC_AT, MAGIC);
    Ok(region)
}

fn write(bytes: &mut [u8], at: usize, name: &str, length: u32, text: &[u8]) {
    bytes[at..at + 4].copy_from_slice(&(name.len() as u32).to_ne_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&length.to_ne_bytes());
    let name_at = at + FRAME;
    let text_at = name_at + name.len();
    bytes[name_at..text_at].copy_from_slice(name.as_bytes());
    bytes[text_at..text_at + text.len()].copy_from_slice(text);
}

/// Where the text of each name is, and where what is valid ends.
fn read(region: &mut impl Region) -> io::Result<(HashMap<String, Range<usize>>, usize)> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the journal is not whole");
    if region.size() < FIRST || region.word(MAGIC_AT) != MAGIC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no journal that is known",
        ));
    }
    let end = usize::try_from(region.word(END_AT)).map_err(|_too_large| broken())?;
    let bytes = region.bytes();
    if end < FIRST || end > bytes.len() {
        return Err(broken());
    }
    let number = |at: usize| {
        let four = bytes[..end].get(at..at + 4)?;
        Some(u32::from_ne_bytes(four.try_into().ok()?))
    };
    let mut index = HashMap::new();
    let mut at = FIRST;
    while at < end {
        let (Some(name), Some(length)) = (number(at), number(at + 4)) else {
            return Err(broken());
        };
        let name_at = at + FRAME;
        let text_at = name_at.checked_add(name as usize).ok_or_else(broken)?;
        let text = if length == GONE { 0 } else { length as usize };
        let text_end = text_at.checked_add(text).filter(|text_end| *text_end <= end);
        let text_end = text_end.ok_or_else(broken)?;
        let name = str::from_utf8(&bytes[name_at..text_at]).map_err(|_other| broken())?;
        if length == GONE {
            index.remove(name);
        } else {
            index.insert(name.to_owned(), text_at..text_end);
        }
        at = text_end.next_multiple_of(8);
    }
    if at == end {
        Ok((index, end))
    } else {
        Err(broken())
    }
}
