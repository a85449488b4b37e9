// A child process made by fork() has its parent's memory and, of its threads, only the one that
// forked. What another thread had locked there stays locked, and what it was changing half changed.
#pragma once

#include <cstdint>

namespace sdcore {

// How many forks made this process out of the first one that ran this code: what was made at
// another count is of a parent. Always 0 on systems without fork().
uint32_t fork_count();

}  // namespace sdcore
