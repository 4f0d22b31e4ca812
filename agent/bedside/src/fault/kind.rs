//! The faults that can be injected, by name, number in docs/faults.md, and effect.
//!
//! Place: under `fault`. Invariant: one table; names never change, since scripts name them.

macro_rules! kinds {
    ($($variant:ident $name:literal $number:literal $effect:literal;)*) => {
        /// What can go wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FaultKind {
            $(#[doc = $effect] $variant,)*
        }

        impl FaultKind {
            /// Every kind, in the order of docs/faults.md.
            pub const ALL: [FaultKind; [$($number),*].len()] = [$(FaultKind::$variant),*];

            /// Name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(FaultKind::$variant => $name,)* }
            }

            /// Number of the fault in docs/faults.md.
            pub fn number(self) -> u8 {
                match self { $(FaultKind::$variant => $number,)* }
            }

            /// What it does.
            pub fn effect(self) -> &'static str {
                match self { $(FaultKind::$variant => $effect,)* }
            }
        }
    };
}

kinds! {
    NonFinite "non-finite" 1 "one packet with a gain that is not a number";
    Blip "blip" 1 "16 ms of every lead masked invalid";
    Hole "hole" 1 "200 ms of every lead masked invalid";
    ThreeLeads "three-leads" 2 "10 s with I, II and V1 only";
    EightLeads "eight-leads" 2 "10 s with I, II and V1 to V6 only";
    LeadOrder "lead-order" 3 "10 s of leads in reverse order, named by their MDC codes";
    LeadUnknown "lead-unknown" 3 "one packet with a lead V9";
    LeadDuplicate "lead-duplicate" 4 "one packet with lead II twice";
    UnitError "unit-error" 5 "10 s of microvolts that say they are millivolts";
    GainStep "gain-step" 6 "undeclared gain of 2, 5 s later and for 5 s";
    LeadSwap "lead-swap" 7 "10 s with the arm electrodes swapped";
    Flat "flat" 8 "10 s without any signal";
    FlatLead "flat-lead" 8 "10 s without a signal on V4";
    Saturation "saturation" 9 "10 s at the rail on five chest leads";
    Shock "shock" 9 "a defibrillator's shock: 1 s at the rail on all leads, 8 s later";
    Hum "hum" 10 "10 s of mains hum, 50 Hz, 600 microvolts at an electrode";
    Wander "wander" 11 "10 s of baseline wander, 0.25 Hz, 2.4 millivolts at an electrode";
    Muscle "muscle" 12 "10 s of white noise, 600 microvolts";
    Motion "motion" 13 "10 s of electrode motion, 1 to 10 Hz, 600 microvolts";
    Burst "burst" 14 "2 s of broad-band noise at the rail, as diathermy makes it";
    Paced "paced" 15 "10 s with a pacing pulse marked every second";
    LeadOff "lead-off" 16 "4 s with the leg electrode off";
    Fibrillation "fibrillation" 17 "10 s of ventricular fibrillation";
    Tachycardia "tachycardia" 17 "10 s of a clean tachycardia of 220 beats a minute";
    ClockBack "clock-back" 18 "the device's clock goes back by an hour";
    IndexRestart "index-restart" 18 "the device's sample index begins at 0 again, under the same boot";
    ClockForward "clock-forward" 19 "the device's clock goes forward by an hour";
    IndexForward "index-forward" 19 "one packet's sample index is a day ahead";
    Drift "drift" 20 "from then on the device's clock runs 100 ppm fast";
    Duplicate "duplicate" 21 "10 s of packets sent twice";
    Conflict "conflict" 22 "one packet is followed by another of its number with other samples";
    Gap "gap" 23 "1 s of packets is missing";
    Reorder "reorder" 24 "10 s of packets in reverse order by fours";
    Late "late" 25 "one packet comes 15 s late";
    Backlog "backlog" 26 "10 s of packets are held back by an hour at the gateway and come at once";
    RateLabel "rate-label" 27 "10 s of packets that say 250 Hz";
    RateWrong "rate-wrong" 27 "10 s of samples taken at 400 Hz that say 500 Hz";
    RateOff "rate-off" 27 "from then on samples are taken at 1.5 % less than their label says";
    Overlap "overlap" 28 "every fourth packet of 10 s holds the four before as well";
    Truncated "truncated" 29 "one packet's bytes end halfway";
    Garbage "garbage" 29 "one packet's bytes are noise";
    TooLarge "too-large" 30 "one packet with 20,500 samples a lead";
    Schema "schema" 32 "one packet of schema version 9";
    WrongKey "wrong-key" 33 "10 s of records under the key of another stream";
    Takeover "takeover" 34 "another device takes over with a new boot and its own index";
    TwoDevices "two-devices" 34 "another device sends under the same boot for 10 s";
    Reboot "reboot" 34 "the device boots: a new boot id, and the index begins at 0";
    BootWild "boot-wild" 34 "one packet with a boot id that is 2^40 too high";
    Name "name" 36 "one packet with a person's name for a lead";
    Stat "stat" 45 "10 s of which an urgent reading is asked for";
}

impl FaultKind {
    /// All names, for error messages.
    pub(super) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}
