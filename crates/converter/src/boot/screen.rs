//! The text on a machine's screen. Most servers have no serial console: what went wrong stands on the screen only.
//!
//! In text mode the characters stand in memory. In graphics mode (a kernel's framebuffer console, GRUB's graphical
//! terminal) they are recognised by their shapes: a console draws each in a cell of 8 by 16, always the same way.

use std::collections::HashMap;

/// Where the characters of text mode stand in the guest's memory.
pub const TEXT_MEMORY: u64 = 0xb8000;
/// How much of it there is.
pub const TEXT_MEMORY_SIZE: u64 = 0x8000;
const COLUMNS: usize = 80;

/// The font that the VGA has in ROM: 256 shapes of 16 rows, code page 437. From
/// `vgafonts.c` of SeaVGABIOS, which took it from the public domain (J. Gil's fntcol16).
const FONT: &[u8; 4096] = include_bytes!("vga-8x16.font");
const ROWS: usize = 16;

/// Shapes of the Linux console's font that differ from the VGA's, the top row in the highest byte. Read off a picture of a
/// console that showed all characters.
#[rustfmt::skip]
const LINUX_SHAPES: &[(char, u128)] = &[
    ('0', 0x0000386cc6c6d6d6c6c66c3800000000),
    ('M', 0x0000c6eefefed6c6c6c6c6c600000000),
    ('T', 0x00007e7e5a1818181818183c00000000),
    ('V', 0x0000c6c6c6c6c6c6c66c381000000000),
    ('W', 0x0000c6c6c6c6d6d6d6feee6c00000000),
    ('X', 0x0000c6c66c7c38387c6cc6c600000000),
    ('Y', 0x0000666666663c181818183c00000000),
    ('Z', 0x0000fec6860c183060c2c6fe00000000),
    ('`', 0x0030180c000000000000000000000000),
    ('f', 0x00001c36323078303030307800000000),
    ('m', 0x0000000000ecfed6d6d6d6c600000000),
    ('v', 0x0000000000c6c6c6c6c66c3800000000),
    ('w', 0x0000000000c6c6d6d6d6fe6c00000000),
    ('x', 0x0000000000c66c3838386cc600000000),
    ('|', 0x00001818181818181818181800000000),
    ('~', 0x0076dc00000000000000000000000000),
];

/// Largest screen that is read, in pixels on a side.
const LARGEST: usize = 8192;

/// A picture of a screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    width: usize,
    height: usize,
    /// Red, green, blue.
    pixels: Vec<[u8; 3]>,
}

impl Screen {
    /// Read a binary PPM, as QEMU writes it. [netpbm, ppm(5)]
    #[must_use]
    pub fn from_ppm(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(b"P6")?;
        let mut numbers = [0; 3];
        for number in &mut numbers {
            rest = rest.trim_ascii_start();
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let (text, after) = rest.split_at_checked(digits)?;
            *number = std::str::from_utf8(text).ok()?.parse().ok()?;
            rest = after;
        }
        let [width, height, most] = numbers;
        let pixels = rest.get(1..)?;
        if width == 0 || height == 0 || width > LARGEST || height > LARGEST || most != 255 {
            return None;
        }
        let pixels: Vec<[u8; 3]> = pixels
            .chunks_exact(3)
            .take(width * height)
            .filter_map(|p| p.try_into().ok())
            .collect();
        (pixels.len() == width * height).then_some(Self {
            width,
            height,
            pixels,
        })
    }

    /// Whether the picture is one of text mode: then [`text_in_memory`] knows better.
    #[must_use]
    pub fn is_text_mode(&self) -> bool {
        matches!((self.width, self.height), (720 | 640, 400))
    }

    /// The text on it, as far as its characters have the shapes of the VGA font; other shapes become U+FFFD.
    #[must_use]
    pub fn text(&self) -> String {
        let shapes = shapes();
        // Text mode shows 9 columns a character, the last of them empty.
        let cell = if (self.width, self.height) == (720, 400) {
            9
        } else {
            8
        };
        let mut text = String::new();
        for row in 0..self.height / ROWS {
            let line: String = (0..self.width / cell)
                .map(|column| self.character(&shapes, cell, column, row))
                .collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text.truncate(text.trim_end().len());
        text
    }

    fn character(
        &self,
        shapes: &HashMap<[u8; ROWS], char>,
        cell: usize,
        column: usize,
        row: usize,
    ) -> char {
        let pixel = |x: usize, y: usize| {
            self.pixels
                .get((row * ROWS + y) * self.width + column * cell + x)
                .copied()
                .unwrap_or([0; 3])
        };
        // Paper and ink: nothing but two colours is a character. Which is which is tried both ways.
        let paper = pixel(0, 0);
        let mut shape = [0_u8; ROWS];
        for (y, bits) in shape.iter_mut().enumerate() {
            for x in 0..8 {
                *bits = *bits << 1 | u8::from(pixel(x, y) != paper);
            }
        }
        if shape == [0; ROWS] {
            return ' ';
        }
        let inverse = shape.map(|bits| !bits);
        // A cursor is a bar over the lowest rows.
        let mut under_cursor = shape;
        for bits in under_cursor.iter_mut().skip(ROWS - 3) {
            if *bits == 0xff {
                *bits = 0;
            }
        }
        [shape, inverse, under_cursor]
            .iter()
            .find_map(|s| shapes.get(s))
            .copied()
            .unwrap_or(if under_cursor == [0; ROWS] {
                ' '
            } else {
                '\u{fffd}'
            })
    }
}

/// The text in a copy of [`TEXT_MEMORY`]. All of it, what has scrolled up too: consoles scroll by moving the start.
/// Each character is two bytes, code and attribute (VGA text mode).
#[must_use]
pub fn text_in_memory(memory: &[u8]) -> String {
    let mut text = String::new();
    for line in memory.chunks(COLUMNS * 2) {
        let line: String = line
            .chunks(2)
            .filter_map(|c| c.first())
            .map(|&code| printable(code))
            .collect();
        let line = line.trim_end();
        if !line.is_empty() {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn printable(code: u8) -> char {
    match code {
        0 | 0xff => ' ',
        b' '..=b'~' => char::from(code),
        // Frames and shades, which no sign is made of.
        _ => '\u{fffd}',
    }
}

fn shapes() -> HashMap<[u8; ROWS], char> {
    let mut shapes = HashMap::new();
    for (code, shape) in FONT.as_chunks::<ROWS>().0.iter().enumerate() {
        let code = u8::try_from(code).unwrap_or(0);
        if (b'!'..=b'~').contains(&code) {
            shapes.insert(*shape, char::from(code));
        }
    }
    shapes.extend(
        LINUX_SHAPES
            .iter()
            .map(|(c, shape)| (shape.to_be_bytes(), *c)),
    );
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a console would draw.
    fn drawn(lines: &[&str], columns: usize, ink: [u8; 3], paper: [u8; 3]) -> Vec<u8> {
        let (width, height) = (columns * 8, lines.len() * ROWS);
        let mut ppm = format!("P6\n{width} {height}\n255\n").into_bytes();
        for y in 0..height {
            for x in 0..width {
                let code = lines[y / ROWS]
                    .as_bytes()
                    .get(x / 8)
                    .copied()
                    .unwrap_or(b' ');
                let bits = FONT[usize::from(code) * ROWS + y % ROWS];
                ppm.extend(if bits & (0x80 >> (x % 8)) != 0 {
                    ink
                } else {
                    paper
                });
            }
        }
        ppm
    }

    #[test]
    fn every_character_is_told_from_every_other() {
        let all: String = ('!'..='~').collect();
        for (ink, paper) in [
            ([170; 3], [0; 3]),
            ([0; 3], [255; 3]),
            ([255, 0, 0], [0, 0, 170]),
        ] {
            let screen = Screen::from_ppm(&drawn(&["", &all, " x"], 100, ink, paper)).unwrap();
            assert_eq!(screen.text(), format!("\n{all}\n x"));
        }
    }

    #[test]
    fn the_shapes_of_the_linux_console_are_told_apart_too() {
        let all: std::collections::HashSet<_> =
            LINUX_SHAPES.iter().map(|(_, shape)| *shape).collect();
        assert_eq!(all.len(), LINUX_SHAPES.len());
        let vga: Vec<u128> = FONT
            .as_chunks::<ROWS>()
            .0
            .iter()
            .map(|shape| u128::from_be_bytes(*shape))
            .collect();
        for (c, shape) in LINUX_SHAPES {
            for (code, other) in vga.iter().enumerate().skip(33).take(94) {
                assert_ne!(shape, other, "{c} looks like {code}");
            }
        }
    }

    #[test]
    fn a_cursor_is_no_character() {
        let mut ppm = drawn(&["login: "], 10, [170; 3], [0; 3]);
        let start = ppm.len() - 80 * 16 * 3;
        for y in 13..16 {
            for x in 56..64 {
                let at = start + (y * 80 + x) * 3;
                ppm[at..at + 3].fill(170);
            }
        }
        assert_eq!(Screen::from_ppm(&ppm).unwrap().text(), "login:");
    }

    #[test]
    fn text_memory_in_rows_of_eighty() {
        let mut memory = vec![0; TEXT_MEMORY_SIZE as usize];
        for (at, code) in b"GRUB loading.".iter().enumerate() {
            memory[at * 2] = *code;
            memory[at * 2 + 1] = 7;
        }
        for (at, code) in b"grub rescue> ".iter().enumerate() {
            memory[320 + at * 2] = *code;
        }
        assert_eq!(text_in_memory(&memory), "GRUB loading.\ngrub rescue>");
        assert_eq!(text_in_memory(&[]), "");
        assert_eq!(text_in_memory(b"a"), "a");
    }

    #[test]
    fn pictures_that_are_none() {
        for ppm in [
            &b""[..],
            b"P5 1 1 255 abc",
            b"P6 1 1 255",
            b"P6 2 2 255 abc",
            b"P6 99999999999999999999 1 255 a",
            b"P6 8193 1 255 ",
            b"P6 0 0 255 ",
            b"P6 1 1 65535 aaaaaa",
        ] {
            assert_eq!(Screen::from_ppm(ppm), None);
        }
        assert!(Screen::from_ppm(b"P6 1 1 255 abc").is_some());
    }
}
