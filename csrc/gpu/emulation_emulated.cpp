// Fibers: the threads of a block on this thread.
#include "gpu/emulation.h"

#include <cstdlib>

#include "base/buffer.h"

// Keeps what a call must keep (the System V ABI of x86-64), takes the other stack and goes on
// there.
extern "C" void sdcore_switch_stack(void** save, void* to);
asm(R"(
  .text
  .hidden sdcore_switch_stack
  .globl sdcore_switch_stack
  .type sdcore_switch_stack, @function
sdcore_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size sdcore_switch_stack, .-sdcore_switch_stack
)");

namespace sdcore::gpu {
namespace emulation {
namespace {

constexpr size_t kStack = 128 * 1024;
constexpr int kMaxThreads = 256;  // of a block

struct Copy {
  void* to;
  const void* from;
  bool present;
};

void land(const Copy& copy) {
  if (copy.present) {
    std::memcpy(copy.to, copy.from, 16);
  } else {
    std::memset(copy.to, 0, 16);
  }
}

struct Fiber {
  Place place;
  void* stack_pointer = nullptr;
  bool done = true;
  std::vector<std::vector<Copy>> groups;  // of copies under way, committed
  std::vector<Copy> open;
};

// Those who wait for each other.
struct Meeting {
  int wanted = 0, arrived = 0;
  uint64_t number = 0;
  void* lanes[32] = {};
};

struct Machine {
  Machine() : stacks(kStack * kMaxThreads), fibers(kMaxThreads) {}

  Buffer stacks, shared;
  std::vector<Fiber> fibers;
  Meeting block, warps[kMaxThreads / 32];
  const std::function<void()>* body = nullptr;
  Fiber* running = nullptr;
  void* scheduler = nullptr;     // its stack pointer
  uint64_t progress = 0;         // grows whenever a thread gets somewhere
  const char* broken = nullptr;  // a rule; nothing can be thrown across fibers
};

Machine& machine() {
  thread_local Machine one;
  return one;
}

void to_scheduler() {
  Machine& m = machine();
  sdcore_switch_stack(&m.running->stack_pointer, m.scheduler);
}

void begin_fiber() {
  Machine& m = machine();
  (*m.body)();
  m.running->done = true;
  ++m.progress;
  to_scheduler();
  std::abort();  // nobody comes back here
}

void prepare(Fiber& fiber, int index) {
  Machine& m = machine();
  auto* top = reinterpret_cast<void**>(m.stacks.data() + kStack * static_cast<size_t>(index + 1));
  // As if begin_fiber had been called: its own return address, at which it must not arrive, leaves
  // the stack aligned as the ABI wants it.
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&begin_fiber);
  top -= 6;
  std::memset(top, 0, 6 * sizeof(void*));
  fiber.stack_pointer = top;
  fiber.done = false;
  fiber.groups.clear();
  fiber.open.clear();
}

template <class Act>
void meet(Meeting& meeting, Act act) {
  const uint64_t number = meeting.number;
  ++machine().progress;
  if (++meeting.arrived == meeting.wanted) {
    act();
    meeting.arrived = 0;
    ++meeting.number;
    return;
  }
  while (meeting.number == number) to_scheduler();
}

// Runs a warp until all of its lanes wait for others or are done; how many are done by it.
int run_warp(int warp, int round) {
  Machine& m = machine();
  int done = 0;
  for (uint64_t before = m.progress - 1; m.progress != before; ++round) {
    before = m.progress;
    for (int i = 0; i < 32; ++i) {
      const int lane = round % 2 ? 31 - i : i;  // they must not count on an order either
      Fiber& fiber = m.fibers[static_cast<size_t>(warp * 32 + lane)];
      if (fiber.done) continue;
      m.running = &fiber;
      sdcore_switch_stack(&m.scheduler, fiber.stack_pointer);
      if (fiber.done) ++done;
      require(m.broken == nullptr, ErrorKind::internal, "[emulated] ", m.broken);
    }
  }
  return done;
}

void run_block(int threads) {
  Machine& m = machine();
  for (int i = 0; i < threads; ++i) prepare(m.fibers[static_cast<size_t>(i)], i);
  m.block = {threads, 0, 0, {}};
  for (int i = 0; i < threads / 32; ++i) m.warps[i] = {32, 0, 0, {}};
  std::memset(m.shared.data(), 0xff, m.shared.size());
  const int warps = threads / 32;
  int left = threads;
  for (int round = 0; left > 0; ++round) {
    const uint64_t before = m.progress;
    for (int i = 0; i < warps; ++i) left -= run_warp((i + round) % warps, round);
    require(m.progress != before, ErrorKind::internal,
            "[emulated] threads of a block wait for each other in different places");
  }
}

}  // namespace

const Place& place() { return machine().running->place; }
std::byte* shared_memory() { return machine().shared.data(); }

void run(Index grid, Index block, size_t shared_bytes, const std::function<void()>& body) {
  Machine& m = machine();
  const int64_t threads = int64_t{block.x} * block.y * block.z;
  require(threads > 0 && threads <= kMaxThreads && threads % 32 == 0 && shared_bytes <= 99 * 1024,
          ErrorKind::internal, "[emulated] a block of ", threads, " threads and ", shared_bytes,
          " bytes is not one that every GPU runs");
  m.body = &body;
  m.shared = Buffer(shared_bytes);
  for (uint32_t z = 0; z < grid.z; ++z) {
    for (uint32_t y = 0; y < grid.y; ++y) {
      for (uint32_t x = 0; x < grid.x; ++x) {
        for (int i = 0; i < threads; ++i) {
          Place& at = m.fibers[static_cast<size_t>(i)].place;
          const auto t = static_cast<uint32_t>(i);
          at.thread.x = t % block.x;
          at.thread.y = t / block.x % block.y;
          at.thread.z = t / block.x / block.y;
          at.block.x = x;
          at.block.y = y;
          at.block.z = z;
          at.block_size = block;
          at.grid_size = grid;
          at.lane = i % 32;
        }
        run_block(static_cast<int>(threads));
      }
    }
  }
}

void wait_for_block() {
  meet(machine().block, [] {});
}

void with_warp(void* mine, void (*act)(Lanes lanes)) {
  Machine& m = machine();
  const auto index = static_cast<size_t>(m.running - m.fibers.data());
  Meeting& warp = m.warps[index / 32];
  warp.lanes[index % 32] = mine;
  meet(warp, [&] { act(warp.lanes); });
}

void copy_async(void* to, const void* from, bool present) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
    machine().broken = "an asynchronous copy is not aligned";
  }
  // Half of the threads' copies land at once and half when they are waited for: both may be.
  const Copy copy{to, from, present};
  if (place().lane % 2 == 0) {
    land(copy);
  } else {
    machine().running->open.push_back(copy);
  }
}

void commit_copies() {
  Fiber& fiber = *machine().running;
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}

void await_copies(int groups) {
  auto& under_way = machine().running->groups;
  while (under_way.size() > static_cast<size_t>(groups)) {
    for (const Copy& copy : under_way.front()) land(copy);
    under_way.erase(under_way.begin());
  }
}

}  // namespace emulation

}  // namespace sdcore::gpu
