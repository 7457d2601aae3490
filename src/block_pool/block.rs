//! Blocks and boxes: what owns memory of a pool.

use std::alloc::Layout;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::ptr::NonNull;

use super::inner::Inner;

/// Memory of a [`BlockPool`](super::BlockPool): one block, which is freed when this is dropped, on any thread, also after
/// the pool itself is gone.
///
/// What is in it depends on the pool's [`Zeroing`](super::Zeroing), so it may be uninitialized: [`zeroed`](Self::zeroed) makes
/// bytes of it, [`write`](Self::write) a value.
#[must_use = "the block is freed if it is dropped"]
pub struct Block {
    memory: NonNull<u8>,
    pool: NonNull<Inner>,
}

// SAFETY: it owns its memory, and the pool may be used by any thread.
unsafe impl Send for Block {}
// SAFETY: a shared reference gives no access to the memory.
unsafe impl Sync for Block {}
// As the pool itself.
impl UnwindSafe for Block {}
impl RefUnwindSafe for Block {}

impl Block {
    /// # Safety
    ///
    /// The block was allocated from the pool, and is the caller's.
    #[inline]
    pub(super) unsafe fn new(memory: NonNull<u8>, pool: NonNull<Inner>) -> Self {
        Block { memory, pool }
    }

    fn into_parts(self) -> (NonNull<u8>, NonNull<Inner>) {
        let block = ManuallyDrop::new(self);
        (block.memory, block.pool)
    }

    fn pool(&self) -> &Inner {
        // SAFETY: a block that is out keeps the pool.
        unsafe { self.pool.as_ref() }
    }

    /// Its size and alignment, as the pool was built with.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.pool().block_layout()
    }

    /// Where it begins. The pointer may be used for as long as the block lives.
    #[must_use]
    #[inline]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.memory
    }

    /// Its bytes, which may be uninitialized.
    #[inline]
    pub fn as_uninit(&mut self) -> &mut [MaybeUninit<u8>] {
        let size = self.layout().size();
        // SAFETY: the block has so many bytes, and is ours. Uninitialized bytes are bytes of this type.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().cast(), size) }
    }

    /// All of it as bytes that are zero. This writes them, unless the pool does already.
    pub fn zeroed(self) -> PoolBox<[u8]> {
        let size = self.layout().size();
        if !self.pool().zeroes() {
            // SAFETY: the block has so many bytes, and is ours.
            unsafe { self.memory.write_bytes(0, size) };
        }
        let (memory, pool) = self.into_parts();
        PoolBox { value: NonNull::slice_from_raw_parts(memory, size), pool, _owns: PhantomData }
    }

    /// Moves a value into it.
    ///
    /// # Errors
    ///
    /// If the type needs more bytes than the block has, or a larger alignment: block and value, as they were.
    pub fn write<T>(self, value: T) -> Result<PoolBox<T>, (Block, T)> {
        if !fits::<T>(self.layout()) {
            return Err((self, value));
        }
        // SAFETY: the value fits.
        Ok(unsafe { self.write_unchecked(value) })
    }

    /// # Safety
    ///
    /// The value fits.
    #[inline]
    pub(super) unsafe fn write_unchecked<T>(self, value: T) -> PoolBox<T> {
        let (memory, pool) = self.into_parts();
        let memory = memory.cast::<T>();
        // SAFETY: the block has the size and alignment, and is ours.
        unsafe { memory.write(value) };
        PoolBox { value: memory, pool, _owns: PhantomData }
    }

    /// Its address, without an owner: for [`BlockPool::free_raw`](super::BlockPool::free_raw), or
    /// [`BlockPool::from_raw`](super::BlockPool::from_raw). Until then the block is in use.
    #[must_use = "the block is lost without its address"]
    pub fn into_raw(self) -> NonNull<u8> {
        self.into_parts().0
    }
}

/// Whether a value fits a block.
pub(super) const fn fits<T>(block: Layout) -> bool {
    size_of::<T>() <= block.size() && align_of::<T>() <= block.align()
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the block is ours, and this is its end.
        unsafe { Inner::free(self.pool, self.memory) }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("memory", &self.memory).field("layout", &self.layout()).finish()
    }
}

/// A value in a block of a [`BlockPool`](super::BlockPool), as a `Box` has one on the heap. Dropping it drops the value and
/// frees the block, on any thread, also after the pool itself is gone; the block is freed also if the value's drop panics.
///
/// Made by [`BlockPool::boxed`](super::BlockPool::boxed), and by [`Block::write`] and [`Block::zeroed`].
#[must_use = "the value is dropped with it"]
pub struct PoolBox<T: ?Sized> {
    value: NonNull<T>,
    pool: NonNull<Inner>,
    _owns: PhantomData<T>,
}

// SAFETY: it owns a value, as a box does, and the pool may be used by any thread.
unsafe impl<T: ?Sized + Send> Send for PoolBox<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync> Sync for PoolBox<T> {}
// The value does not move with the box.
impl<T: ?Sized> Unpin for PoolBox<T> {}
impl<T: ?Sized + UnwindSafe> UnwindSafe for PoolBox<T> {}
impl<T: ?Sized + RefUnwindSafe> RefUnwindSafe for PoolBox<T> {}

impl<T> PoolBox<T> {
    /// Moves the value out, and frees the block.
    pub fn into_inner(this: Self) -> T {
        let (value, block) = Self::into_parts(this);
        let _block = block;
        // SAFETY: the value is ours, and nobody drops it in the block.
        unsafe { value.read() }
    }

    /// Moves the value out, and keeps the block.
    pub fn into_block(this: Self) -> (T, Block) {
        let (value, block) = Self::into_parts(this);
        // SAFETY: as above.
        (unsafe { value.read() }, block)
    }
}

impl<T: ?Sized> PoolBox<T> {
    fn into_parts(this: Self) -> (NonNull<T>, Block) {
        let this = ManuallyDrop::new(this);
        // SAFETY: the value lies in a block of the pool, which is ours.
        (this.value, unsafe { Block::new(this.value.cast(), this.pool) })
    }

    /// The same box, whose value cannot be moved out any more.
    pub fn into_pin(this: Self) -> Pin<Self> {
        // SAFETY: the value stays where it is until it is dropped, and its block is not used for another before.
        unsafe { Pin::new_unchecked(this) }
    }

    /// The value's address, without an owner: for [`from_raw`](Self::from_raw).
    #[must_use = "the block is lost without its address"]
    pub fn into_raw(this: Self) -> NonNull<T> {
        ManuallyDrop::new(this).value
    }

    /// The box of an address. With a pointer to a trait object or a slice, made of what [`into_raw`](Self::into_raw) returned,
    /// it is a box of that.
    ///
    /// # Safety
    ///
    /// The address came from `into_raw` of a box in a block of this pool and is used once, and the value is valid as a `T`.
    pub unsafe fn from_raw(value: NonNull<T>, pool: &super::BlockPool) -> Self {
        PoolBox { value, pool: pool.inner, _owns: PhantomData }
    }
}

impl<T: ?Sized> Deref for PoolBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the value is ours.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ?Sized> DerefMut for PoolBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the value is ours.
        unsafe { self.value.as_mut() }
    }
}

impl<T: ?Sized> AsRef<T> for PoolBox<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: ?Sized> AsMut<T> for PoolBox<T> {
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: ?Sized> Drop for PoolBox<T> {
    #[inline]
    fn drop(&mut self) {
        // Freed also if the drop of the value panics.
        // SAFETY: the value lies in a block of the pool, which is ours.
        let _block = unsafe { Block::new(self.value.cast(), self.pool) };
        // SAFETY: the value is ours, and this is its end.
        unsafe { self.value.drop_in_place() }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for PoolBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for PoolBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
