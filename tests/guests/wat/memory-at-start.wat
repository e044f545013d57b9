;; world: wharf:plugin/filter
;; Asks for 4 GiB before it has done anything.
(module
  (memory (export "memory") 65536)
  (global $top (mut i32) (i32.const 4096))

  ;; 64: `ok` with no needs but the phase `request`. All other answers are zeros, at 256: no text, no edit.
  (data (i32.const 84) "\01")

  (func $realloc (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
    (global.set $top (i32.add (local.get $at) (local.get $size)))
    (block $fits
      (br_if $fits (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $fits (i32.ne (memory.grow (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1))) (i32.const -1)))
      unreachable)
    (local.get $at))

  (func (export "wharf:lifecycle/lifecycle@0.1.0#schema") (result i32)
    (i32.const 256))
  (func (export "wharf:lifecycle/lifecycle@0.1.0#configure") (param i32 i32) (result i32)
    (global.set $top (i32.const 4096))
    (i32.const 64))
  ;; method (tag, text), facts
  (func (export "wharf:filter/filter@0.1.0#on-request") (param i32 i32 i32 i32 i32) (result i32)
    (global.set $top (i32.const 4096))
    (i32.const 256))
  ;; status, facts
  (func (export "wharf:filter/filter@0.1.0#on-response") (param i32 i32 i32) (result i32)
    (global.set $top (i32.const 4096))
    (i32.const 256)))
