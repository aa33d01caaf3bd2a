//! Entry points for fuzzing: one function per decoder, plain bytes in, a panic if a property doesn't hold.
