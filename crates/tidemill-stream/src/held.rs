//! Values that a checkpoint takes hold of by a pointer, and that are copied when they are first written to after that.
//!
//! In: values. Out: the same, and [`Held::share`]: the value as of a moment, which stays as it was and may be read on any thread.
//! One that no checkpoint reads any more is taken back without a copy.

use std::sync::Arc;

/// A value that is mostly nobody else's: then writing to it costs no more than a look at which of the two it is.
pub(crate) enum Held<T> {
    Own(T),
    /// A checkpoint has it, too.
    Shared(Arc<T>),
}

impl<T> Held<T> {
    #[inline(always)]
    pub fn get(&self) -> &T {
        match self {
            Self::Own(value) => value,
            Self::Shared(value) => value,
        }
    }
}

impl<T: Clone + Default> Held<T> {
    /// The value as it is now; from here on a checkpoint has it, too.
    pub fn share(&mut self) -> Arc<T> {
        if let Self::Own(value) = self {
            *self = Self::Shared(Arc::new(std::mem::take(value)));
        }
        match self {
            Self::Shared(value) => value.clone(),
            Self::Own(_) => unreachable!("it was shared above"),
        }
    }

    /// The value, to be written to.
    #[inline(always)]
    pub fn own(&mut self) -> &mut T {
        if let Self::Shared(_) = self {
            self.take_back();
        }
        match self {
            Self::Own(value) => value,
            Self::Shared(_) => unreachable!("it was taken back above"),
        }
    }

    /// A copy, unless the checkpoint has been written.
    #[cold]
    fn take_back(&mut self) {
        if let Self::Shared(value) = std::mem::replace(self, Self::Own(T::default())) {
            *self = Self::Own(Arc::unwrap_or_clone(value));
        }
    }
}
