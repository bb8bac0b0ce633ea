//! JSON as a tree that forgets nothing a validator wants to know: repeated keys stay, strings are borrowed.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Any JSON value.
pub enum Node<'a> {
    Null,
    Bool,
    /// A whole number from 0 to 2^64 - 1.
    Whole(u64),
    /// Any other number.
    Number,
    String(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    /// The members in the order of the text, repeated keys included.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

impl Node<'_> {
    /// What kind of value it is, for an error text.
    pub fn kind(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool => "a boolean",
            Node::Whole(_) | Node::Number => "a number",
            Node::String(_) => "a string",
            Node::Array(_) => "an array",
            Node::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node<'de>, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Node<'de>, E> {
        Ok(Node::Bool)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Node<'de>, E> {
        Ok(Node::Whole(number))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Node<'de>, E> {
        Ok(Node::Number)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Node<'de>, E> {
        Ok(Node::Number)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Node<'de>, E> {
        Ok(Node::String(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node<'de>, E> {
        Ok(Node::String(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node<'de>, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element()? {
            nodes.push(node);
        }
        Ok(Node::Array(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<'de>, A::Error> {
        let mut members = Vec::with_capacity(4);
        while let Some((Key(key), node)) = map.next_entry()? {
            members.push((key, node));
        }
        Ok(Node::Object(members))
    }
}

/// A key of an object, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(NodeVisitor)? {
            Node::String(key) => Ok(Key(key)),
            _ => Err(D::Error::custom("a key must be a string")),
        }
    }
}

/// A whole document: an object whose member `raw_key` is kept as the text it is, or something else.
pub enum Document<'a> {
    Object(Vec<(Cow<'a, str>, Member<'a>)>),
    Other(Node<'a>),
}

/// A member of the outermost object.
pub enum Member<'a> {
    Parsed(Node<'a>),
    Raw(&'a RawValue),
}

/// The member of the outermost object that stays text.
const RAW_KEY: &str = "metadata";

impl<'de> Deserialize<'de> for Document<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DocumentVisitor;

        impl<'de> Visitor<'de> for DocumentVisitor {
            type Value = Document<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                NodeVisitor.visit_unit().map(Document::Other)
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
                NodeVisitor.visit_bool(value).map(Document::Other)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                NodeVisitor.visit_u64(number).map(Document::Other)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                NodeVisitor.visit_i64(number).map(Document::Other)
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                NodeVisitor.visit_f64(number).map(Document::Other)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                NodeVisitor.visit_str(text).map(Document::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                NodeVisitor.visit_seq(seq).map(Document::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(Key(key)) = map.next_key()? {
                    let member = match &*key {
                        RAW_KEY => Member::Raw(map.next_value()?),
                        _ => Member::Parsed(map.next_value()?),
                    };
                    members.push((key, member));
                }
                Ok(Document::Object(members))
            }
        }

        deserializer.deserialize_any(DocumentVisitor)
    }
}
