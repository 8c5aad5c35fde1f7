//! A Rust file, taken apart as far as the rules need: code without comments and texts, the
//! comments, the texts, and which lines belong to tests.

/// One file.
pub(crate) struct Source {
    /// From the root of the workspace.
    pub(crate) path: String,
    /// The code; comments, the insides of texts and characters are blanks. As long as the file.
    pub(crate) code: String,
    /// `code` without what is compiled for tests only: blanks, too.
    pub(crate) product: String,
    /// Comments with the lines they begin in.
    pub(crate) comments: Vec<(usize, String)>,
    /// String literals with the lines they begin in and their place in the file.
    pub(crate) texts: Vec<(usize, usize, String)>,
}

impl Source {
    /// Takes `text` apart.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let mut parts = Parts { code: text.as_bytes().to_vec(), comments: vec![], texts: vec![] };
        parts.scan(text.as_bytes());
        let code = String::from_utf8_lossy(&parts.code).into_owned();
        let mut product = code.clone();
        if is_test_file(path) {
            product = blank(&code, 0, code.len());
        }
        let mut from = 0;
        while let Some(found) = product[from..].find("#[cfg(test)]") {
            let end = item_end(&product, from + found);
            product = blank(&product, from + found, end);
            from = end;
        }
        let lines = |place: usize| text.as_bytes()[..place].iter().filter(|b| **b == b'\n').count();
        Self {
            path: path.to_owned(),
            code,
            product,
            comments: parts.comments.into_iter().map(|(at, c)| (lines(at) + 1, c)).collect(),
            texts: parts.texts.into_iter().map(|(at, t)| (lines(at) + 1, at, t)).collect(),
        }
    }

    /// Whether it lies below one of these folders.
    pub(crate) fn below(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(&format!("{folder}/")))
    }

    /// `path:line`, for findings.
    pub(crate) fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }
}

/// A folder `tests`, a file `tests.rs` or `x_tests.rs`: all of it is for tests.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
        || path.split('/').skip(1).any(|folder| folder == "tests")
}

fn blank(text: &str, from: usize, to: usize) -> String {
    let blanks = text.bytes().enumerate().map(|(place, byte)| {
        if (from..to).contains(&place) && byte != b'\n' { b' ' } else { byte }
    });
    String::from_utf8_lossy(&blanks.collect::<Vec<_>>()).into_owned()
}

/// Where the item with the attribute at `from` ends.
fn item_end(code: &str, from: usize) -> usize {
    let bytes = code.as_bytes();
    let mut place = from;
    while place < bytes.len() && bytes[place] != b'{' && bytes[place] != b';' {
        place += 1;
    }
    if bytes.get(place) == Some(&b'{') { closing(code, place) + 1 } else { place + 1 }
        .min(bytes.len())
}

/// The bracket that closes the one at `open`; the end of the file if there is none.
pub(crate) fn closing(code: &str, open: usize) -> usize {
    let bytes = code.as_bytes();
    let (opening, closing) = match bytes[open] {
        b'(' => (b'(', b')'),
        b'[' => (b'[', b']'),
        _ => (b'{', b'}'),
    };
    let mut depth = 0;
    for (place, byte) in bytes.iter().enumerate().skip(open) {
        if *byte == opening {
            depth += 1;
        } else if *byte == closing {
            depth -= 1;
            if depth == 0 {
                return place;
            }
        }
    }
    bytes.len()
}

/// Where `word` stands by itself in `text`.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let bytes = text.as_bytes();
    text.match_indices(word).map(|(place, _)| place).filter(move |place| {
        let before = place.checked_sub(1).and_then(|place| bytes.get(place));
        !part(before) && !part(bytes.get(place + word.len()))
    })
}

/// The line of a place.
pub(crate) fn line(text: &str, place: usize) -> usize {
    text.as_bytes()[..place].iter().filter(|byte| **byte == b'\n').count() + 1
}

struct Parts {
    code: Vec<u8>,
    comments: Vec<(usize, String)>,
    texts: Vec<(usize, String)>,
}

impl Parts {
    fn scan(&mut self, text: &[u8]) {
        let mut place = 0;
        while place < text.len() {
            place = match text[place] {
                b'/' if text[place..].starts_with(b"//") => {
                    let end = find(text, place, b"\n");
                    self.comment(text, place, end)
                }
                b'/' if text[place..].starts_with(b"/*") => {
                    let end = block_comment_end(text, place);
                    self.comment(text, place, end)
                }
                b'"' => self.text(text, place + 1, text_end(text, place + 1), 1),
                b'r' if raw_hashes(text, place).is_some() => {
                    let hashes = raw_hashes(text, place).unwrap_or(0);
                    let mut end_mark = vec![b'"'];
                    end_mark.resize(hashes + 1, b'#');
                    let begin = place + hashes + 2;
                    self.text(text, begin, find(text, begin, &end_mark), hashes + 1)
                }
                b'\'' => self.character(text, place),
                byte if byte.is_ascii_alphanumeric() || byte == b'_' => word_end(text, place),
                _ => place + 1,
            };
        }
    }

    fn comment(&mut self, text: &[u8], from: usize, to: usize) -> usize {
        self.comments.push((from, String::from_utf8_lossy(&text[from..to]).into_owned()));
        self.blank(from, to);
        to
    }

    fn text(&mut self, text: &[u8], from: usize, to: usize, close: usize) -> usize {
        self.texts.push((from, String::from_utf8_lossy(&text[from..to]).into_owned()));
        self.blank(from, to);
        to + close
    }

    /// A character literal, or the tick of a lifetime.
    fn character(&mut self, text: &[u8], place: usize) -> usize {
        let end = match text.get(place + 1) {
            Some(b'\\') => find(text, place + 3, b"'"),
            Some(_) if text.get(place + 2) == Some(&b'\'') => place + 2,
            _ => return place + 1,
        };
        self.blank(place + 1, end);
        end + 1
    }

    fn blank(&mut self, from: usize, to: usize) {
        for byte in &mut self.code[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
}

fn find(text: &[u8], from: usize, what: &[u8]) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    rest.windows(what.len()).position(|w| w == what).map_or(text.len(), |place| from + place)
}

fn text_end(text: &[u8], mut place: usize) -> usize {
    while place < text.len() && text[place] != b'"' {
        place += if text[place] == b'\\' { 2 } else { 1 };
    }
    place.min(text.len())
}

fn block_comment_end(text: &[u8], from: usize) -> usize {
    let mut depth = 0;
    let mut place = from;
    while place < text.len() {
        if text[place..].starts_with(b"/*") {
            depth += 1;
            place += 2;
        } else if text[place..].starts_with(b"*/") {
            depth -= 1;
            place += 2;
            if depth == 0 {
                return place;
            }
        } else {
            place += 1;
        }
    }
    text.len()
}

/// How many `#` a raw text that begins here has.
fn raw_hashes(text: &[u8], place: usize) -> Option<usize> {
    let rest = &text[place + 1..];
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    (rest.get(hashes) == Some(&b'"')).then_some(hashes)
}

/// The end of a word; prefixes of texts (`b"`, `br#"`, `c"`) end before what they prefix.
fn word_end(text: &[u8], from: usize) -> usize {
    let mut place = from;
    while place < text.len() && (text[place].is_ascii_alphanumeric() || text[place] == b'_') {
        if place > from && text[place] == b'r' && raw_hashes(text, place).is_some() {
            return place;
        }
        place += 1;
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_texts_are_no_code() {
        let text = "a(); // one \"x\"\nlet s = \"two // \\\" /*\"; /* three /* four */ */ b('\"', 'x');\n\
                    let r = br#\"five \" \"#; fn f<'a>(x: &'a str) {}\n";
        let source = Source::new("base/src/x.rs", text);
        assert_eq!(source.code.len(), text.len());
        for gone in ["one", "two", "three", "four", "five"] {
            assert!(!source.code.contains(gone), "{gone}: {}", source.code);
        }
        for kept in ["a();", "b(", "let r", "fn f<'a>(x: &'a str) {}"] {
            assert!(source.code.contains(kept), "{kept}: {}", source.code);
        }
        let lines: Vec<_> = source.comments.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2]);
        let texts: Vec<_> = source.texts.iter().map(|(_, _, text)| text.as_str()).collect();
        assert_eq!(texts, ["two // \\\" /*", "five \" "]);
    }

    #[test]
    fn tests_are_no_product() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { {} }\n}\nfn c() {}\n#[cfg(test)]\nmod d;\n";
        let source = Source::new("base/src/x.rs", text);
        assert!(source.product.contains("fn a") && source.product.contains("fn c"));
        assert!(!source.product.contains("fn b") && !source.product.contains("mod d"));
        assert_eq!(source.product.lines().count(), source.code.lines().count());
        for path in ["base/src/x/tests.rs", "base/src/x/tests/y.rs"] {
            assert!(Source::new(path, text).product.trim().is_empty());
        }
    }

    #[test]
    fn a_word_stands_alone() {
        assert_eq!(words("a ab a_b (a) a", "a").collect::<Vec<_>>(), [0, 10, 13]);
    }
}
