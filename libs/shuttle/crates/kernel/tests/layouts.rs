//! The structs of the compiled programs are those of the crate `abi`, field by field.
#![allow(missing_docs, reason = "a test")]

use std::collections::HashMap;

use object::{Object, ObjectSection};
use weft_kernel::abi::LAYOUTS;

#[test]
fn every_struct_has_the_same_fields_in_c_and_in_rust() {
    let file = object::File::parse(weft_kernel::testrun::object()).unwrap();
    let btf = Btf::parse(file.section_by_name(".BTF").unwrap().data().unwrap());
    for layout in LAYOUTS {
        let (size, fields) = &btf.structs[layout.c_name];
        assert_eq!(*size, layout.size, "size of {}", layout.c_name);
        let mirrored: Vec<_> = layout
            .fields
            .iter()
            .map(|&(name, offset, size)| (name.to_owned(), offset, size))
            .collect();
        assert_eq!(*fields, mirrored, "fields of {}", layout.c_name);
    }
}

/// Name, offset and size of a field; offset and size in bytes.
type Field = (String, usize, usize);

/// The structs of a `.BTF` section. Source: `Documentation/bpf/btf.rst`.
struct Btf {
    structs: HashMap<String, (usize, Vec<Field>)>,
}

enum Type {
    Sized(usize),
    Alias(u32),
    Array { element: u32, count: usize },
    Struct { name: u32, size: usize, members: Vec<(u32, u32, usize)> },
}

impl Btf {
    fn parse(data: &[u8]) -> Self {
        const HEADER_LENGTH: usize = 4;
        let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
        let header = word(HEADER_LENGTH) as usize;
        let (types_at, types_bytes) = (header + word(8) as usize, word(12) as usize);
        let strings_at = header + word(16) as usize;
        let name = |offset: u32| {
            let text = &data[strings_at + offset as usize..];
            let end = text.iter().position(|byte| *byte == 0).unwrap();
            String::from_utf8(text[..end].to_vec()).unwrap()
        };

        // Type 0 is void.
        let mut types = vec![Type::Sized(0)];
        let mut at = types_at;
        while at < types_at + types_bytes {
            let (name, info, size_or_type) = (word(at), word(at + 4), word(at + 8));
            let count = (info & 0xffff) as usize;
            let body = at + 12;
            let (kind, body_bytes) = match (info >> 24) & 0x1f {
                1 => (Type::Sized(size_or_type as usize), 4),
                2 => (Type::Sized(8), 0),
                3 => {
                    let array = Type::Array { element: word(body), count: word(body + 8) as usize };
                    (array, 12)
                }
                4 | 5 => {
                    let members = (0..count)
                        .map(|index| body + 12 * index)
                        .map(|member| (word(member), word(member + 4), word(member + 8) as usize))
                        .collect();
                    (Type::Struct { name, size: size_or_type as usize, members }, 12 * count)
                }
                6 | 13 => (Type::Sized(size_or_type as usize), 8 * count),
                15 | 19 => (Type::Sized(size_or_type as usize), 12 * count),
                14 | 17 => (Type::Alias(size_or_type), 4),
                7 | 16 => (Type::Sized(size_or_type as usize), 0),
                8..=12 | 18 => (Type::Alias(size_or_type), 0),
                kind => panic!("BTF kind {kind} is not known"),
            };
            types.push(kind);
            at = body + body_bytes;
        }

        let structs = types
            .iter()
            .filter_map(|kind| match kind {
                Type::Struct { name: own, size, members } => {
                    let fields = members
                        .iter()
                        .map(|&(field, kind, bits)| (name(field), bits / 8, size_of(&types, kind)))
                        .collect();
                    Some((name(*own), (*size, fields)))
                }
                _ => None,
            })
            .collect();
        Self { structs }
    }
}

fn size_of(types: &[Type], id: u32) -> usize {
    match &types[id as usize] {
        Type::Sized(bytes) | Type::Struct { size: bytes, .. } => *bytes,
        Type::Alias(id) => size_of(types, *id),
        Type::Array { element, count } => count * size_of(types, *element),
    }
}
