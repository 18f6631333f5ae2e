//! Ctrl-C and `kill` for a program that holds labs: tear down first, then die of the signal.

use std::{
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

use crate::{Error, Result, lab};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT and SIGTERM tear down every live lab (kept ones excepted) and then end this
/// process as the signal would have. Without this, the next `Lab::new` removes what was left.
///
/// # Errors
/// [`Error::Signals`] when handlers cannot be installed.
pub fn clean_up_on_signal() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(Error::Signals)?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            lab::tear_down_all();
            let _ = emulate_default_handler(signal);
        }
    };
    thread::Builder::new().name("lab-signals".into()).spawn(wait).map_err(Error::Signals)?;
    Ok(())
}

/// After a failure: does not return when it comes from a signal that [`clean_up_on_signal`]
/// handles, which takes processes from under everything that uses them. The signal then ends this
/// process.
pub fn stay_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// Where a panic aborts (release builds) nothing is dropped: tear down in the panic hook instead.
pub(crate) fn clean_up_on_abort() {
    static INSTALLED: Once = Once::new();
    if !cfg!(panic = "abort") {
        return;
    }
    INSTALLED.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            previous(panic);
            lab::tear_down_all();
        }));
    });
}
