// Fibers: the threads of a block, or of a cluster of them, on this thread.
#include "gpu/emulation.h"

#include <algorithm>
#include <cstdlib>
#include <span>
#include <utility>

#include "base/buffer.h"

// Keeps what a call must keep (the System V ABI of x86-64), takes the other stack and goes on
// there: by a jump, as a processor expects a `ret` to lead where the last call came from.
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
  popq %rcx
  jmpq *%rcx
  .size sdcore_switch_stack, .-sdcore_switch_stack
)");

namespace sdcore::gpu {
namespace emulation {
namespace {

// Not a power of two, for which the tops of all stacks would share a few lines of the cache.
constexpr size_t kStack = 128 * 1024 + 15 * 64;
// What every GPU of an architecture runs: threads of a block and their shared memory, and blocks of
// a cluster.
struct Limits {
  int64_t threads;
  size_t shared;
  int64_t blocks;
};
constexpr Limits kHopper = {512, size_t{227} * 1024, 8}, kAmpere = {256, size_t{99} * 1024, 1};
constexpr int kMaxThreads = kHopper.threads * kHopper.blocks;

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

// Those who wait for each other.
struct Meeting {
  int wanted = 0, arrived = 0;
  uint64_t number = 0;
  void* lanes[32] = {};
};

struct Fiber {
  bool can_go_on() const { return !done && (!awaited || awaited->number != awaited_number); }

  Place place;
  void* stack_pointer = nullptr;
  bool done = true;
  const Meeting* awaited = nullptr;  // until its number is another
  uint64_t awaited_number = 0;
  std::vector<std::vector<Copy>> groups;  // of copies under way, committed
  std::vector<Copy> open;
};

struct Block {
  Buffer shared;
  Meeting all;
};

struct Machine {
  Machine() : stacks(kStack * kMaxThreads), fibers(kMaxThreads), blocks(kHopper.blocks) {}

  Buffer stacks;
  std::vector<Fiber> fibers;
  std::vector<Block> blocks;  // of the cluster that runs
  Meeting cluster, warps[kMaxThreads / 32];
  const std::function<void()>* body = nullptr;
  Fiber* running = nullptr;
  void* scheduler = nullptr;     // its stack pointer
  uint64_t progress = 0;         // grows whenever a thread gets somewhere
  bool next_warp = false;        // whether this one leaves its turn to others
  const char* broken = nullptr;  // a rule; nothing can be thrown across fibers
};

Machine& machine() {
  thread_local Machine one;
  return one;
}

void to_scheduler(Machine& m) { sdcore_switch_stack(&m.running->stack_pointer, m.scheduler); }

void begin_fiber() {
  Machine& m = machine();
  (*m.body)();
  m.running->done = true;
  ++m.progress;
  to_scheduler(m);
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
  fiber.awaited = nullptr;
  fiber.groups.clear();
  fiber.open.clear();
}

template <class Act>
void meet(Machine& m, Meeting& meeting, Act act) {
  ++m.progress;
  if (++meeting.arrived == meeting.wanted) {
    act();
    meeting.arrived = 0;
    ++meeting.number;
    return;
  }
  m.running->awaited = &meeting;
  m.running->awaited_number = meeting.number;
  to_scheduler(m);
}

// Runs a warp until all of its lanes wait for others or are done, or one gives way; how many are
// done by it.
int run_warp(int warp, int round) {
  Machine& m = machine();
  int done = 0;
  for (uint64_t before = m.progress - 1; m.progress != before; ++round) {
    before = m.progress;
    for (int i = 0; i < 32; ++i) {
      const int lane = round % 2 ? 31 - i : i;  // they must not count on an order either
      Fiber& fiber = m.fibers[static_cast<size_t>(warp * 32 + lane)];
      if (!fiber.can_go_on()) continue;
      m.running = &fiber;
      sdcore_switch_stack(&m.scheduler, fiber.stack_pointer);
      if (fiber.done) ++done;
      require(m.broken == nullptr, ErrorKind::internal, "[emulated] ", m.broken);
      if (std::exchange(m.next_warp, false)) return done;
    }
  }
  return done;
}

// Where the threads of a cluster are whose first block is this one.
void place_cluster(Index first, Index cluster, Index block, Index grid) {
  Machine& m = machine();
  const int64_t threads = int64_t{block.x} * block.y * block.z;
  const int64_t blocks = int64_t{cluster.x} * cluster.y * cluster.z;
  for (int64_t i = 0; i < threads * blocks; ++i) {
    Place& at = m.fibers[static_cast<size_t>(i)].place;
    const auto t = static_cast<uint32_t>(i % threads), rank = static_cast<uint32_t>(i / threads);
    at.thread.x = t % block.x;
    at.thread.y = t / block.x % block.y;
    at.thread.z = t / block.x / block.y;
    at.block.x = first.x + rank % cluster.x;
    at.block.y = first.y + rank / cluster.x % cluster.y;
    at.block.z = first.z + rank / cluster.x / cluster.y;
    at.block_size = block;
    at.grid_size = grid;
    at.lane = static_cast<int>(t % 32);
    at.rank = static_cast<int>(rank);
    at.fiber = static_cast<int>(i);
  }
}

void run_cluster(int block_threads, int blocks) {
  Machine& m = machine();
  const int threads = block_threads * blocks, warps = threads / 32;
  for (int i = 0; i < threads; ++i) prepare(m.fibers[static_cast<size_t>(i)], i);
  m.cluster = {threads, 0, 0, {}};
  for (int i = 0; i < warps; ++i) m.warps[i] = {32, 0, 0, {}};
  for (int i = 0; i < blocks; ++i) {
    Block& block = m.blocks[static_cast<size_t>(i)];
    block.all = {block_threads, 0, 0, {}};
    std::ranges::fill(std::span(block.shared.data(), block.shared.size()), std::byte{0xff});
  }
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
std::byte* shared_memory() { return shared_memory_of(place().rank); }
std::byte* shared_memory_of(int rank) {
  return machine().blocks[static_cast<size_t>(rank)].shared.data();
}

void run(int architecture, Index grid, Index block, size_t shared_bytes,
         const std::function<void()>& body, Index cluster) {
  Machine& m = machine();
  const Limits limits = architecture == 90 ? kHopper : kAmpere;
  const int64_t threads = int64_t{block.x} * block.y * block.z;
  const int64_t blocks = int64_t{cluster.x} * cluster.y * cluster.z;
  require(threads > 0 && threads <= limits.threads && threads % 32 == 0 &&
              shared_bytes <= limits.shared && blocks <= limits.blocks,
          ErrorKind::internal, "[emulated] clusters of ", blocks, " blocks of ", threads,
          " threads and ", shared_bytes, " bytes are not what every GPU runs");
  require(grid.x % cluster.x == 0 && grid.y % cluster.y == 0 && grid.z % cluster.z == 0,
          ErrorKind::internal, "[emulated] a grid is not of whole clusters");
  m.body = &body;
  for (int64_t i = 0; i < blocks; ++i)
    m.blocks[static_cast<size_t>(i)].shared = Buffer(shared_bytes);
  Index at;
  for (at.z = 0; at.z < grid.z; at.z += cluster.z) {
    for (at.y = 0; at.y < grid.y; at.y += cluster.y) {
      for (at.x = 0; at.x < grid.x; at.x += cluster.x) {
        place_cluster(at, cluster, block, grid);
        run_cluster(static_cast<int>(threads), static_cast<int>(blocks));
      }
    }
  }
}

void wait_for_block() {
  Machine& m = machine();
  meet(m, m.blocks[static_cast<size_t>(m.running->place.rank)].all, [] {});
}
void wait_for_cluster() {
  Machine& m = machine();
  meet(m, m.cluster, [] {});
}
void let_others() { to_scheduler(machine()); }
void get_on() { ++machine().progress; }
void let_other_warps() {
  Machine& m = machine();
  ++m.progress;
  m.next_warp = true;
  to_scheduler(m);
}
void break_rule(const char* what) { machine().broken = what; }

void with_warp(void* mine, void (*act)(Lanes lanes)) {
  Machine& m = machine();
  const auto index = static_cast<size_t>(m.running - m.fibers.data());
  Meeting& warp = m.warps[index / 32];
  warp.lanes[index % 32] = mine;
  meet(m, warp, [&] { act(warp.lanes); });
}

void copy_async(void* to, const void* from, bool present) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
    break_rule("an asynchronous copy is not aligned");
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
