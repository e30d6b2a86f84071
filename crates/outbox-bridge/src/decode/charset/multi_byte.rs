//! Character sets of up to two, three or four bytes a character.
//!
//! The Encoding Standard's tables are taken as they are for `gbk`, `cp932` and `euckr`, where they agree with MySQL 9.7
//! on every character that MySQL has. In the other sets the characters that differ are listed here.

use encoding_rs::{BIG5, DecoderResult, EUC_JP, EUC_KR, Encoding, GB18030, GBK, SHIFT_JIS};

use super::Charset;

/// `big5`: 0xC6A1 to 0xC7FC, the ETEN extensions in the order of their codes.
const BIG5_ETEN: &str = "ヾゝゞ々ぁあぃいぅうぇえぉおかがきぎくぐけげこごさざしじすずせぜそぞただちぢっつづてでとどな\
     にぬねのはばぱひびぴふぶぷへべぺほぼぽまみむめもゃやゅゆょよらりるれろゎわゐゑをんァアィイゥ\
     ウェエォオカガキギクグケゲコゴサザシジスズセゼソゾタダチヂッツヅテデトドナニヌネノハバパヒビ\
     ピフブプヘベペホボポマミムメモャヤュユョヨラリルレロヮワヰヱヲンヴヵヶДЕЁЖЗИЙКЛМУ\
     ФХЦЧШЩЪЫЬЭЮЯабвгдеёжзийклмнопрстуфхцчшщъыьэюя①\
     ②③④⑤⑥⑦⑧⑨⑩⑴⑵⑶⑷⑸⑹⑺⑻⑼⑽";

/// `eucjpms`: 0x8FF3F3 to 0x8FF4FE, the IBM extensions in the order of their codes.
const EUCJPMS_IBM: &str = "ⅰⅱⅲⅳⅴⅵⅶⅷⅸⅹⅠⅡⅢⅣⅤⅥⅦⅧⅨⅩ＇＂㈱№℡炻仼僴凬匇匤﨎咊坙﨏塚增寬峵嵓﨑德悅愠敎昻\
     晥晴朗栁﨓﨔橫櫢淸淲瀨凞猪甁皂皞益礰礼神祥福竧靖精綠緖羽荢﨟薰蘒﨡蠇諸譿賴赶﨣﨤逸郞都鄕﨧﨨\
     閒隆﨩霻靍靑飯飼館馞髙魲鶴黑";

pub(super) fn decode(charset: Charset, mut bytes: &[u8]) -> Option<String> {
    let encoding = encoding(charset)?;
    let mut text = String::with_capacity(bytes.len() * 2);
    while let Some(first) = bytes.first() {
        if first.is_ascii() {
            text.push(char::from(*first));
            bytes = bytes.get(1..)?;
            continue;
        }
        let (character, rest) = bytes.split_at_checked(character_length(charset, bytes)?)?;
        match deviation(charset, character) {
            Some(deviation) => text.push(deviation),
            None => push(encoding, character, &mut text)?,
        }
        bytes = rest;
    }
    Some(text)
}

fn encoding(charset: Charset) -> Option<&'static Encoding> {
    Some(match charset {
        Charset::Gbk | Charset::Gb2312 => GBK,
        Charset::Gb18030 => GB18030,
        Charset::Big5 => BIG5,
        Charset::Sjis | Charset::Cp932 => SHIFT_JIS,
        Charset::Ujis | Charset::Eucjpms => EUC_JP,
        Charset::Euckr => EUC_KR,
        _ => return None,
    })
}

/// The length of the character that starts with a byte above 0x7F; `None` where none can start.
fn character_length(charset: Charset, bytes: &[u8]) -> Option<usize> {
    let (first, second) = (*bytes.first()?, bytes.get(1));
    Some(match (charset, first) {
        (Charset::Sjis | Charset::Cp932, 0xa1..=0xdf) => 1,
        (Charset::Ujis | Charset::Eucjpms, 0x8f) => 3,
        (Charset::Gb18030, _) if second?.is_ascii_digit() => 4,
        (_, 0x80 | 0xff) => return None,
        _ => 2,
    })
}

fn push(encoding: &'static Encoding, character: &[u8], text: &mut String) -> Option<()> {
    let mut buffer = [0; 16];
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let (result, _, written) = decoder.decode_to_utf8_without_replacement(character, &mut buffer, true);
    if !matches!(result, DecoderResult::InputEmpty) {
        return None;
    }
    text.push_str(std::str::from_utf8(buffer.get(..written)?).ok()?);
    Some(())
}

/// The characters where MySQL and the Encoding Standard differ.
fn deviation(charset: Charset, character: &[u8]) -> Option<char> {
    match charset {
        Charset::Gb2312 => gb2312(character),
        Charset::Gb18030 => gb18030(character),
        Charset::Big5 => big5(character),
        Charset::Sjis => sjis(character),
        Charset::Ujis => ujis(character).or_else(|| euc_user_defined(character)),
        Charset::Eucjpms => eucjpms(character).or_else(|| euc_user_defined(character)),
        _ => None,
    }
}

fn gb2312(character: &[u8]) -> Option<char> {
    match character {
        [0xa1, 0xa4] => Some('・'),
        [0xa1, 0xaa] => Some('―'),
        _ => None,
    }
}

/// MySQL has the GB 18030 of 2005: these characters are still in the private use area.
fn gb18030(character: &[u8]) -> Option<char> {
    Some(match character {
        [0xa3, 0xa0] => '\u{e5e5}',
        [0xa6, 0xd9] => '\u{e78d}',
        [0xa6, 0xda] => '\u{e78e}',
        [0xa6, 0xdb] => '\u{e78f}',
        [0xa6, 0xdc] => '\u{e790}',
        [0xa6, 0xdd] => '\u{e791}',
        [0xa6, 0xde] => '\u{e792}',
        [0xa6, 0xdf] => '\u{e793}',
        [0xa6, 0xec] => '\u{e794}',
        [0xa6, 0xed] => '\u{e795}',
        [0xa6, 0xf3] => '\u{e796}',
        [0xfe, 0x59] => '\u{e81e}',
        [0xfe, 0x61] => '\u{e826}',
        [0xfe, 0x66] => '\u{e82b}',
        [0xfe, 0x67] => '\u{e82c}',
        [0xfe, 0x6d] => '\u{e832}',
        [0xfe, 0x7e] => '\u{e843}',
        [0xfe, 0x90] => '\u{e854}',
        [0xfe, 0xa0] => '\u{e864}',
        _ => return None,
    })
}

fn big5(character: &[u8]) -> Option<char> {
    let [lead, trail] = *character else { return None };
    Some(match (lead, trail) {
        (0xa1, 0x45) => '•',
        (0xa1, 0x4e) => '､',
        (0xa1, 0xc2) => '‾',
        (0xa1, 0xe3) => '∼',
        (0xa1, 0xf2) => '♁',
        (0xa1, 0xf3) => '☉',
        (0xa2, 0x41) => '／',
        (0xa2, 0x42) => '＼',
        (0xa2, 0x44) => '¥',
        (0xa2, 0x46) => '¢',
        (0xa2, 0x47) => '£',
        (0xc6, 0xa1..=0xfe) => nth(BIG5_ETEN, trail, 0xa1, 0)?,
        (0xc7, 0x40..=0x7e) => nth(BIG5_ETEN, trail, 0x40, 94)?,
        (0xc7, 0xa1..=0xfe) => nth(BIG5_ETEN, trail, 0xa1, 94 + 63)?,
        _ => return None,
    })
}

fn sjis(character: &[u8]) -> Option<char> {
    Some(match character {
        [0x81, 0x5f] => '\\',
        [0x81, 0x60] => '〜',
        [0x81, 0x61] => '‖',
        [0x81, 0x7c] => '−',
        [0x81, 0x91] => '¢',
        [0x81, 0x92] => '£',
        [0x81, 0xca] => '¬',
        _ => return None,
    })
}

fn ujis(character: &[u8]) -> Option<char> {
    Some(match character {
        [0x8f, 0xa2, 0xb7] => '~',
        [0xa1, 0xc0] => '\\',
        [0xa1, 0xc1] => '〜',
        [0xa1, 0xc2] => '‖',
        [0xa1, 0xdd] => '−',
        [0xa1, 0xf1] => '¢',
        [0xa1, 0xf2] => '£',
        [0xa2, 0xcc] => '¬',
        _ => return None,
    })
}

fn eucjpms(character: &[u8]) -> Option<char> {
    match *character {
        [0x8f, 0xa2, 0xc3] => Some('￤'),
        [0x8f, 0xf3, trail @ 0xf3..=0xfe] => nth(EUCJPMS_IBM, trail, 0xf3, 0),
        [0x8f, 0xf4, trail @ 0xa1..=0xfe] => nth(EUCJPMS_IBM, trail, 0xa1, 12),
        _ => None,
    }
}

/// The last ten rows of both planes of EUC are for private use.
fn euc_user_defined(character: &[u8]) -> Option<char> {
    let (first, lead, trail) = match *character {
        [lead @ 0xf5..=0xfe, trail @ 0xa1..=0xfe] => (0xe000, lead, trail),
        [0x8f, lead @ 0xf5..=0xfe, trail @ 0xa1..=0xfe] => (0xe000 + 940, lead, trail),
        _ => return None,
    };
    char::from_u32(first + u32::from(lead - 0xf5) * 94 + u32::from(trail - 0xa1))
}

fn nth(characters: &str, trail: u8, first: u8, offset: usize) -> Option<char> {
    characters.chars().nth(usize::from(trail - first) + offset)
}
