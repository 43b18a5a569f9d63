#include "worker/runner/weight_stream.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/units.h"
#include "worker/runner/pack_weights.h"

namespace octavo {
namespace {

// Outputs [begin, end) of `whole`, for one-after-the-other use: no weights yet.
Linear PartOf(const Linear& whole, int64_t begin, int64_t end) {
  Linear part;
  part.name = whole.name;
  part.channels = end - begin;
  part.depth = whole.depth;
  part.unit_size = whole.unit_size;
  part.blocks_per_unit = whole.blocks_per_unit;
  part.unit_count = whole.unit_count;
  part.pieces = whole.pieces;
  part.packed.type = whole.packed.type;
  part.packed.group_count = CeilDiv(part.channels, kTileChannels);
  part.packed.block_count = whole.packed.block_count;
  if (!whole.bias.empty()) part.bias.assign(whole.bias.begin() + begin, whole.bias.begin() + end);
  return part;
}

// REQUIRES: `whole` is whole, with or without a slice that says so.
v1::RankTensor SliceOf(const v1::RankTensor& whole, int64_t begin, int64_t end) {
  v1::RankTensor part = whole;
  part.mutable_slice()->set_axis(0);
  part.mutable_slice()->set_begin(begin);
  part.mutable_slice()->set_end(end);
  return part;
}

LinearOutput FromChannel(const LinearOutput& whole, int64_t channel) {
  LinearOutput part = whole;
  if (part.bf16 != nullptr) part.bf16 += channel;
  if (part.residual != nullptr) part.residual += channel;
  if (part.f32 != nullptr) part.f32 += channel;
  return part;
}

// One rank holds all of the matrix, not quantized.
bool IsWhole(const Linear& linear) {
  if (linear.streamed == nullptr || linear.streamed->has_scheme()) return false;
  const SliceBounds bounds = ChannelBounds(*linear.streamed);
  return linear.channels == bounds.rows && linear.depth == bounds.columns;
}

// As many outputs as fit the buffer: whole groups, at least one.
int64_t ChannelsAtATime(const Linear& linear, uint64_t bytes) {
  const auto group_bytes =
      static_cast<uint64_t>(linear.packed.block_count * TileBytes(linear.packed.type));
  const uint64_t groups = std::max<uint64_t>(1, bytes / group_bytes);
  return static_cast<int64_t>(groups) * kTileChannels;
}

}  // namespace

void WeightStream::Fetch(const Part& part) {
  const v1::ModelTensor& weight = part.job->linear->streamed->tensor();
  if (weight.transposed()) return;  // its outputs lie scattered
  const v1::TensorSpec& spec = weight.spec();
  const uint64_t row_bytes = (spec.end() - spec.begin()) / static_cast<uint64_t>(spec.shape(0));
  files_->WillRead(spec.file(), spec.begin() + static_cast<uint64_t>(part.begin) * row_bytes,
                   spec.begin() + static_cast<uint64_t>(part.end) * row_bytes);
}

absl::Status WeightStream::RunPart(const MatmulOps& ops, const Part& part, const Part* next,
                                   Workspace* workspace) {
  const Linear& whole = *part.job->linear;
  Linear own = PartOf(whole, part.begin, part.end);
  OCTAVO_RETURN_IF_ERROR(tiles_.Reserve(arena_, own.packed.bytes(), "streamed weights"));
  auto* tiles = tiles_.as<std::byte>();
  std::memset(tiles, 0, own.packed.bytes());  // the padding
  own.packed.tiles = tiles;
  const v1::RankTensor slice = SliceOf(*whole.streamed, part.begin, part.end);
  OCTAVO_RETURN_IF_ERROR(PackWeight(files_, slice, pool_, tiles, &own));
  if (next != nullptr) Fetch(*next);
  const LinearJob job = {&own, part.job->input, FromChannel(part.job->output, part.begin)};
  RunLinears(ops, pool_, std::span(&job, 1), workspace);
  return absl::OkStatus();
}

absl::Status WeightStream::Run(const MatmulOps& ops, std::span<const LinearJob> jobs,
                               Workspace* workspace) {
  std::vector<Part> parts;
  for (const LinearJob& job : jobs) {
    const Linear& linear = *job.linear;
    OCTAVO_CHECK(IsWhole(linear) && job.output.pieces == nullptr);
    const int64_t step = ChannelsAtATime(linear, bytes_);
    for (int64_t begin = 0; begin < linear.channels; begin += step) {
      parts.push_back({&job, begin, std::min(begin + step, linear.channels)});
    }
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    if (stop_.stop_requested()) return MakeError(Reason::kCancelled, "the task was stopped");
    const Part* next = i + 1 < parts.size() ? &parts[i + 1] : nullptr;
    OCTAVO_RETURN_IF_ERROR(RunPart(ops, parts[i], next, workspace));
  }
  return absl::OkStatus();
}

}  // namespace octavo
