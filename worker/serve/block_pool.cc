#include "worker/serve/block_pool.h"

#include <algorithm>

#include "core/base/status.h"

namespace octavo {

BlockPool::BlockPool(uint32_t block_count) : blocks_(block_count), empty_(block_count) {
  for (uint32_t i = 0; i < block_count; ++i) empty_[i] = block_count - 1 - i;
}

uint32_t BlockPool::BlocksFor(size_t tokens) {
  return static_cast<uint32_t>((tokens + kKvBlockTokens - 1) / kKvBlockTokens);
}

bool BlockPool::Grow(std::vector<uint32_t>& table, size_t tokens) {
  const size_t wanted = BlocksFor(tokens);
  if (wanted <= table.size()) return true;
  if (wanted - table.size() > free_count()) return false;
  while (table.size() < wanted) table.push_back(TakeFree());
  return true;
}

uint32_t BlockPool::TakeFree() {
  uint32_t taken = 0;
  if (!empty_.empty()) {
    taken = empty_.back();
    empty_.pop_back();
  } else {
    taken = idle_.front();
    idle_.pop_front();
    kept_.erase(blocks_[taken].key);
    blocks_[taken].prefix = kNoPrefix;
  }
  blocks_[taken].users = 1;
  return taken;
}

void BlockPool::Free(std::vector<uint32_t>& table) {
  for (; !table.empty(); table.pop_back()) {
    Block& block = blocks_[table.back()];
    if (--block.users > 0) continue;
    if (block.prefix == kNoPrefix) {
      empty_.push_back(table.back());
    } else {
      block.idle = idle_.insert(idle_.end(), table.back());
    }
  }
}

BlockPool::Key BlockPool::KeyOf(Prefix before, std::span<const int32_t> tokens) {
  Key key;
  key.before = before;
  OCTAVO_CHECK(tokens.size() == key.tokens.size());
  std::ranges::copy(tokens, key.tokens.begin());
  return key;
}

bool BlockPool::Reuse(Prefix& prefix, std::span<const int32_t> tokens,
                      std::vector<uint32_t>& table) {
  const auto found = kept_.find(KeyOf(prefix, tokens));
  if (found == kept_.end()) return false;
  Block& block = blocks_[found->second.block];
  if (block.users++ == 0) idle_.erase(block.idle);
  table.push_back(found->second.block);
  prefix = found->second.prefix;
  return true;
}

void BlockPool::Keep(Prefix& prefix, std::span<const int32_t> tokens, uint32_t block) {
  const Key key = KeyOf(prefix, tokens);
  const auto [found, added] = kept_.try_emplace(key, Kept{block, last_prefix_ + 1});
  prefix = found->second.prefix;
  if (!added) return;
  ++last_prefix_;
  blocks_[block].key = key;
  blocks_[block].prefix = prefix;
}

}  // namespace octavo
