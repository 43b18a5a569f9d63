#include "worker/serve/block_pool.h"

#include "core/base/limits.h"

namespace octavo {

BlockPool::BlockPool(uint32_t block_count) : block_count_(block_count), free_(block_count) {
  for (uint32_t i = 0; i < block_count; ++i) free_[i] = block_count - 1 - i;
}

uint32_t BlockPool::BlocksFor(size_t tokens) {
  return static_cast<uint32_t>((tokens + kKvBlockTokens - 1) / kKvBlockTokens);
}

bool BlockPool::Grow(std::vector<uint32_t>& table, size_t tokens) {
  const size_t wanted = BlocksFor(tokens);
  if (wanted <= table.size()) return true;
  if (wanted - table.size() > free_.size()) return false;
  while (table.size() < wanted) {
    table.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void BlockPool::Free(std::vector<uint32_t>& table) {
  for (; !table.empty(); table.pop_back()) free_.push_back(table.back());
}

}  // namespace octavo
