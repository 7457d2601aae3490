//! Objects of many shapes: from a machine word to 64 KiB, by value and behind a pointer.

use std::cell::RefCell;
use std::hint::black_box;

/// An object that a pool can make and a caller can use.
pub trait Object: Sized + Send + 'static {
    /// The factory.
    fn new() -> Self;

    /// The caller's work: next to nothing, but the compiler does not know.
    #[inline]
    fn touch(&mut self) {
        black_box(self);
    }

    /// Lends this thread's stack of idle objects, which belongs to [`Stack`](crate::pools::Stack).
    fn with_stack<R>(run: impl FnOnce(&RefCell<Vec<Self>>) -> R) -> R;
}

/// A static cannot be generic, so each type brings its own stack.
macro_rules! object {
    ($type:ty, $new:expr $(, $touch:expr)?) => {
        impl Object for $type {
            #[inline]
            fn new() -> Self {
                $new
            }

            $(
                #[inline]
                fn touch(&mut self) {
                    let touch: fn(&mut Self) = $touch;
                    touch(self);
                }
            )?

            #[inline]
            fn with_stack<R>(run: impl FnOnce(&RefCell<Vec<Self>>) -> R) -> R {
                thread_local! {
                    static STACK: RefCell<Vec<$type>> = const { RefCell::new(Vec::new()) };
                }
                STACK.with(run)
            }
        }
    };
}

/// A buffer that is cleared and written to in each turn, so that its header changes too.
#[derive(Debug)]
pub struct Written(Vec<u8>);

object!(u64, 0, |number| {
    *number += 1;
    black_box(number);
});
object!(Box<u64>, Box::new(0));
object!(Box<[u8; 64]>, Box::new([0; 64]));
object!(Vec<u8>, Vec::with_capacity(64));
object!(String, String::with_capacity(64));
object!(Written, Written(Vec::with_capacity(64)), |buffer| {
    buffer.0.clear();
    buffer.0.extend_from_slice(black_box(b"0123456789abcdef"));
    black_box(buffer);
});
object!([u8; 64], [0; 64]);
object!([u8; 128], [0; 128]);
object!([u8; 200], [0; 200]);
object!([u8; 1024], [0; 1024]);
object!([u8; 4096], [0; 4096]);
object!([u8; 16384], [0; 16384]);
object!([u8; 65536], [0; 65536]);

/// The name of an [`Object`] type, for tables and arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "`name` documents them")]
pub enum Shape {
    Word,
    BoxedWord,
    Boxed,
    Vec,
    String,
    Written,
    Bytes64,
    Bytes128,
    Bytes200,
    Bytes1K,
    Bytes4K,
    Bytes64K,
}

impl Shape {
    /// As the tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Word => "u64, incremented",
            Shape::BoxedWord => "Box<u64>",
            Shape::Boxed => "Box<[u8; 64]>",
            Shape::Vec => "Vec<u8>",
            Shape::String => "String",
            Shape::Written => "Vec<u8>, cleared and written",
            Shape::Bytes64 => "[u8; 64]",
            Shape::Bytes128 => "[u8; 128]",
            Shape::Bytes200 => "[u8; 200]",
            Shape::Bytes1K => "[u8; 1024]",
            Shape::Bytes4K => "[u8; 4096]",
            Shape::Bytes64K => "[u8; 65536]",
        }
    }
}

/// Evaluates an expression with `$object` as the type that a [`Shape`] names.
macro_rules! with_shape {
    ($shape:expr, $object:ident => $run:expr) => {{
        use $crate::objects::{Shape, Written};
        macro_rules! with_type {
            ($type:ty) => {{
                type $object = $type;
                $run
            }};
        }
        match $shape {
            Shape::Word => with_type!(u64),
            Shape::BoxedWord => with_type!(Box<u64>),
            Shape::Boxed => with_type!(Box<[u8; 64]>),
            Shape::Vec => with_type!(Vec<u8>),
            Shape::String => with_type!(String),
            Shape::Written => with_type!(Written),
            Shape::Bytes64 => with_type!([u8; 64]),
            Shape::Bytes128 => with_type!([u8; 128]),
            Shape::Bytes200 => with_type!([u8; 200]),
            Shape::Bytes1K => with_type!([u8; 1024]),
            Shape::Bytes4K => with_type!([u8; 4096]),
            Shape::Bytes64K => with_type!([u8; 65536]),
        }
    }};
}
pub(crate) use with_shape;
