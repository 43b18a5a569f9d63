// Fibers that stand for the threads of a block.

#include "kernels/cuda/simt/host.h"

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "core/tensor/bare/fp_env.h"

namespace octavo::simt {
namespace host {

Position here;

namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr int kFill = 0xff;  // a NaN in every type
constexpr size_t kGuard = 1024;
constexpr int kSharedBytesMax = 99 * 1024;  // of a block on sm_86 and sm_89; others give more

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "kernel error: %s (block %d, %d; thread %d)\n", what, here.block, here.row,
               here.thread);
  std::abort();
}

struct PendingCopy {
  void* to;
  const void* from;
  int bytes;  // of 16; the others become zero
  int group;
};

// ThreadSanitizer keeps calls by fiber and has to be told who goes on.
#ifdef __SANITIZE_THREAD__
void* OwnHistory() { return __tsan_get_current_fiber(); }
void* NewHistory() { return __tsan_create_fiber(0); }
void DropHistory(void* history) { __tsan_destroy_fiber(history); }
void GoOnWith(void* history) { __tsan_switch_to_fiber(history, 0); }
#else
void* OwnHistory() { return nullptr; }
void* NewHistory() { return nullptr; }
void DropHistory(void* /*history*/) {}
void GoOnWith(void* /*history*/) {}
#endif

struct Context {
  ucontext_t registers;
  void* history = nullptr;
};

void Switch(Context& from, Context& to) {
  GoOnWith(to.history);
  swapcontext(&from.registers, &to.registers);
}

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  bool done = false;
  // What it waits for: *count > above.
  const uint64_t* count = nullptr;
  uint64_t above = 0;
  uint64_t exchanges = 0;  // of its warp, that it has taken part in
  uint64_t barriers = 0;
  int groups = 0;  // of copies, closed
  std::vector<PendingCopy> copies;
};

struct Lanes {  // what a warp exchanges; two of them in turn, so that the slow can still read
  alignas(32) std::byte slots[2][kWarp][kSlotBytes];
  int arrived[2] = {0, 0};
  uint64_t round = 0;  // exchanges that are complete
};

struct BlockState {
  std::vector<Fiber> fibers;
  std::vector<Lanes> warps;
  std::vector<std::byte> shared;
  size_t shared_bytes = 0;
  int arrived = 0;
  uint64_t barriers = 0;  // that are complete
  Context scheduler;
  void (*body)(const void*) = nullptr;
  const void* kernel = nullptr;
};

BlockState* state = nullptr;

Fiber& Self() { return state->fibers[static_cast<size_t>(here.thread)]; }

void WaitUntilAbove(const uint64_t& count, uint64_t above) {
  if (count > above) return;
  const Position mine = here;
  Self().count = &count;
  Self().above = above;
  Switch(Self().context, state->scheduler);
  here = mine;
}

// A thread of one block after the other.
void FiberMain() {
  while (true) {
    state->body(state->kernel);
    if (!Self().copies.empty()) Die("it ends with asynchronous copies under way");
    Self().done = true;
    Switch(Self().context, state->scheduler);
  }
}

void Start(Fiber* fiber) {
  fiber->stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
  ucontext_t& registers = fiber->context.registers;
  getcontext(&registers);
  registers.uc_stack.ss_sp = fiber->stack.get();
  registers.uc_stack.ss_size = kStackBytes;
  registers.uc_link = nullptr;
  makecontext(&registers, FiberMain, 0);
  fiber->context.history = NewHistory();
}

void CheckGuards() {
  const std::byte* end = state->shared.data() + kGuard + state->shared_bytes;
  for (size_t i = 0; i < kGuard; ++i) {
    if (state->shared[i] != std::byte{kFill} || end[i] != std::byte{kFill}) {
      Die("a write outside of shared memory");
    }
  }
}

void RunBlock(std::mt19937& random) {
  BlockState& block = *state;
  std::memset(block.shared.data(), kFill, block.shared.size());
  for (Lanes& warp : block.warps) warp = {};
  block.arrived = 0;
  block.barriers = 0;
  for (Fiber& fiber : block.fibers) {
    fiber.done = false;
    fiber.count = nullptr;
    fiber.exchanges = fiber.barriers = 0;
    fiber.groups = 0;
  }
  // Some warps run ahead of others, as far as barriers let them.
  std::vector<uint32_t> slowness(block.warps.size());
  for (uint32_t& slow : slowness) slow = random() % 3 * 7;
  const size_t count = block.fibers.size();
  for (bool all_done = false; !all_done;) {
    std::vector<bool> held(block.warps.size());
    for (size_t warp = 0; warp < held.size(); ++warp) held[warp] = random() % 16 < slowness[warp];
    bool progress = false;
    all_done = true;
    const size_t start = random() % count;
    const bool down = random() % 2 == 0;
    bool any_held = false;
    for (size_t i = 0; i < count; ++i) {
      const size_t at = (start + (down ? count - i : i)) % count;
      if (block.fibers[at].done) continue;
      if (held[at / kWarp]) {
        any_held = true;
        all_done = false;
        continue;
      }
      Fiber& fiber = block.fibers[at];
      if (fiber.count == nullptr || *fiber.count > fiber.above) {
        here.thread = static_cast<int>(at);
        Switch(block.scheduler, fiber.context);
        progress = true;
      }
      all_done = all_done && fiber.done;
    }
    if (!all_done && !progress && !any_held) {
      Die("threads wait for what the others never reach");
    }
  }
  CheckGuards();
}

}  // namespace

const std::byte* Exchange(const void* value, size_t size) {
  Lanes& warp = state->warps[static_cast<size_t>(Warp())];
  const uint64_t mine = Self().exchanges++;
  const size_t side = mine % 2;
  std::byte(&slots)[kWarp][kSlotBytes] = warp.slots[side];
  if (size > 0) std::memcpy(slots[Lane()], value, size);
  if (++warp.arrived[side] == kWarp) {
    warp.arrived[side] = 0;
    ++warp.round;
  }
  WaitUntilAbove(warp.round, mine);
  return slots[0];
}

std::byte* SharedBytes() { return state->shared.data() + kGuard; }

void Copy16(void* shared, const void* global, int bytes) {
  if (bytes < 0 || bytes > 16) Die("an asynchronous copy of more or less than 0 to 16 bytes");
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 ||
      (bytes > 0 && reinterpret_cast<uintptr_t>(global) % 16 != 0)) {
    Die("an asynchronous copy that is not aligned to 16 bytes");
  }
  std::memset(shared, kFill, 16);  // what it holds until the copy is waited for
  Self().copies.push_back({shared, global, bytes, Self().groups});
}

void Commit() { ++Self().groups; }

void Wait(int pending) {
  Fiber& self = Self();
  const int done = self.groups - pending;
  std::erase_if(self.copies, [done](const PendingCopy& copy) {
    if (copy.group >= done) return false;
    const auto bytes = static_cast<size_t>(copy.bytes);
    if (bytes > 0) std::memcpy(copy.to, copy.from, bytes);
    std::memset(static_cast<std::byte*>(copy.to) + bytes, 0, 16 - bytes);
    return true;
  });
}

void RunGrid(const Grid& grid, int threads, void (*body)(const void*), const void* kernel) {
  if (grid.shared_bytes > kSharedBytesMax) Die("more shared memory than every GPU gives a block");
  const FpEnv environment;
  BlockState block;
  block.scheduler.history = OwnHistory();
  block.fibers.resize(static_cast<size_t>(threads));
  for (Fiber& fiber : block.fibers) Start(&fiber);
  block.warps.resize(static_cast<size_t>(threads / kWarp));
  block.shared_bytes = static_cast<size_t>(grid.shared_bytes);
  block.shared.resize(block.shared_bytes + 2 * kGuard);
  block.body = body;
  block.kernel = kernel;
  state = &block;
  std::mt19937 random(static_cast<uint32_t>(grid.blocks * 7919 + threads));
  for (int row = 0; row < grid.rows; ++row) {
    for (int at = 0; at < grid.blocks; ++at) {
      here = {.thread = 0, .block = at, .row = row, .blocks = grid.blocks};
      RunBlock(random);
    }
  }
  for (const Fiber& fiber : block.fibers) DropHistory(fiber.context.history);
  state = nullptr;
}

float Half(uint16_t bits, bool bf16) { return bf16 ? F32FromBf16(bits) : F32FromF16(bits); }

// PTX ISA, "Matrix fragments for mma.m16n8k16": lane = 4 g + t holds of A the rows g and g + 8 at
// columns 2t, 2t + 1 and those + 8; of B the column g at the same k; of C the columns 2t, 2t + 1.
void Mma16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bf16) {
  uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  uint32_t all[kWarp][6];
  const std::byte* slots = Exchange(mine, sizeof(mine));
  for (int lane = 0; lane < kWarp; ++lane) {
    std::memcpy(all[lane], slots + static_cast<size_t>(lane) * kSlotBytes, sizeof(mine));
  }
  const auto part = [](uint32_t word, int k) {
    return static_cast<uint16_t>(word >> (k % 2 * 16));
  };
  for (int i = 0; i < 4; ++i) {
    const int row = Lane() / 4 + (i / 2) * 8;
    const int column = Lane() % 4 * 2 + i % 2;
    double sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const uint32_t* from_a = all[row % 8 * 4 + k % 8 / 2];
      const uint32_t* from_b = all[column * 4 + k % 8 / 2];
      sum += static_cast<double>(Half(part(from_a[row / 8 + k / 8 * 2], k), bf16)) *
             static_cast<double>(Half(part(from_b[4 + k / 8], k), bf16));
    }
    c[i] = static_cast<float>(sum);
  }
}

}  // namespace host

void SyncBlock() {
  using host::state;
  const uint64_t mine = host::Self().barriers++;
  if (++state->arrived == static_cast<int>(state->fibers.size())) {
    state->arrived = 0;
    ++state->barriers;
  }
  host::WaitUntilAbove(state->barriers, mine);
}

namespace {

// Where row `row` of matrix `matrix` begins: lane 8 * matrix + row said so.
const std::byte* MatrixRow(const std::byte* slots, int matrix, int row) {
  const std::byte* at = nullptr;
  std::memcpy(&at, slots + static_cast<size_t>(matrix * 8 + row) * host::kSlotBytes, sizeof(at));
  return at;
}

const std::byte* ExchangeRows(const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) host::Die("a matrix row not aligned to 16 bytes");
  return host::Exchange(&row, sizeof(row));
}

}  // namespace

// PTX ISA, "ldmatrix": lane 4 g + t gets of every matrix row g, columns 2t and 2t + 1.
void LoadMatrix4(uint32_t (&r)[4], const void* row) {
  const std::byte* slots = ExchangeRows(row);
  for (int matrix = 0; matrix < 4; ++matrix) {
    std::memcpy(&r[matrix], MatrixRow(slots, matrix, Lane() / 4) + Lane() % 4 * 4, 4);
  }
}

// With .trans: column g, rows 2t and 2t + 1.
void LoadMatrix4Transposed(uint32_t (&r)[4], const void* row) {
  const std::byte* slots = ExchangeRows(row);
  for (int matrix = 0; matrix < 4; ++matrix) {
    for (int half = 0; half < 2; ++half) {
      std::memcpy(reinterpret_cast<std::byte*>(&r[matrix]) + half * 2,
                  MatrixRow(slots, matrix, Lane() % 4 * 2 + half) + Lane() / 4 * 2, 2);
    }
  }
}

// In integers and F64: the environment of kernels would flush BF16's subnormals.
uint32_t ScaleBf16Pair(uint32_t pair, uint32_t factors) {
  const auto value = [](uint32_t bits) {
    const int exponent = static_cast<int>(bits >> 7 & 0xff);
    const double mantissa = (bits & 0x7f) + (exponent > 0 ? 128.0 : 0.0);
    const double magnitude = std::ldexp(mantissa, (exponent > 0 ? exponent : 1) - 134);
    return (bits & 0x8000) != 0 ? -magnitude : magnitude;
  };
  uint32_t out = 0;
  for (int half = 0; half < 2; ++half) {
    const double product = value(pair >> (16 * half)) * value(factors >> (16 * half));
    const double magnitude = std::fabs(product);
    // Steps of BF16: eight bits below the leading one, 2^-133 at least.
    const int step = magnitude == 0 ? 0 : std::max(std::ilogb(magnitude) - 7, -133);
    const double steps = std::nearbyint(std::ldexp(magnitude, -step));
    const double rounded = std::ldexp(steps, step);
    const int top = rounded == 0 ? -127 : std::max(std::ilogb(rounded), -127);
    uint32_t bits;
    if (top > 127) {
      bits = 0x7f80;
    } else if (top < -126) {
      bits = static_cast<uint32_t>(std::ldexp(rounded, 133));
    } else {
      bits = (static_cast<uint32_t>(top + 127) << 7) +
             (static_cast<uint32_t>(std::ldexp(rounded, 7 - top)) - 128);
    }
    if (std::signbit(product)) bits |= 0x8000;
    out |= bits << (16 * half);
  }
  return out;
}

// PTX ISA, "Matrix fragments for mma.m16n8k32": as above with four k in a word, and those + 16.
void MmaS8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  uint32_t all[kWarp][6];
  const std::byte* slots = host::Exchange(mine, sizeof(mine));
  for (int lane = 0; lane < kWarp; ++lane) {
    std::memcpy(all[lane], slots + static_cast<size_t>(lane) * host::kSlotBytes, sizeof(mine));
  }
  const auto part = [](uint32_t word, int k) { return static_cast<int8_t>(word >> (k % 4 * 8)); };
  for (int i = 0; i < 4; ++i) {
    const int row = Lane() / 4 + (i / 2) * 8;
    const int column = Lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 32; ++k) {
      c[i] += part(all[row % 8 * 4 + k % 16 / 4][row / 8 + k / 16 * 2], k) *
              part(all[column * 4 + k % 16 / 4][4 + k / 16], k);
    }
  }
}

}  // namespace octavo::simt
