#include "worker/runner/linear.h"

#include <algorithm>
#include <cstring>

#include "core/base/status.h"
#include "core/tensor/bare/units.h"

namespace octavo {
namespace {

constexpr int64_t kTileRows = Workspace::kTileRows;
constexpr int64_t kTileSums = Workspace::kTileSums;

// Rows [row, row + rows) by groups [group_begin, group_end) of one job.
struct Tile {
  const MatmulOps* ops;
  const Linear* linear;
  const LinearInput* input;
  int64_t row;
  int64_t rows;
  int64_t group_begin;
  int64_t group_end;

  int64_t columns() const { return (group_end - group_begin) * kTileChannels; }
};

MatmulPart PartOf(const Tile& tile, int64_t block_begin, int64_t block_end) {
  return {tile.rows, tile.group_begin, tile.group_end, block_begin, block_end};
}

void SumUnit(const Tile& tile, int unit, float* sums) {
  const Linear& linear = *tile.linear;
  const LinearInput& input = *tile.input;
  const int64_t begin = unit * linear.blocks_per_unit;
  const int64_t end = std::min(begin + linear.blocks_per_unit, linear.packed.block_count);
  const float* x = input.values + tile.row * input.stride;
  if (!linear.block_scaled) {
    tile.ops->sum(linear.packed, PartOf(tile, begin, end), x, input.stride, sums, tile.columns());
    return;
  }
  const BlockScales scales = {input.group_scales + tile.row * input.group_stride,
                              input.group_stride, linear.block_scales.data(),
                              linear.padded_channels()};
  tile.ops->sum_scaled(linear.packed, PartOf(tile, begin, end), x, input.stride, scales, sums,
                       tile.columns());
}

// Sums of the units in `run`, over Tree; `sums` has a free tile behind it for every level.
void SumTree(const Tile& tile, LeafRun run, float* sums) {
  const int count = run.end - run.begin;
  if (count == 1) {
    SumUnit(tile, run.begin, sums);
    return;
  }
  const int middle = run.begin + TreeSplit(count);
  float* right = sums + kTileSums;
  SumTree(tile, {run.begin, middle}, sums);
  SumTree(tile, {middle, run.end}, right);
  const int64_t width = tile.columns();
  for (int64_t row = 0; row < tile.rows; ++row) {
    tile.ops->add(sums + row * tile.columns(), right + row * tile.columns(), width);
  }
}

// Epilogue of `count` channels from `channel` on, of one row.
void FinishRow(const MatmulOps& ops, const Linear& linear, const float* sums, int64_t channel,
               int64_t count, float row_scale, const LinearOutput& output, int64_t row) {
  const float* scales =
      linear.channel_scales.empty() ? nullptr : linear.channel_scales.data() + channel;
  const float* bias = linear.bias.empty() ? nullptr : linear.bias.data() + channel;
  const int64_t at = row * output.stride + channel;
  if (output.f32 != nullptr) {
    ops.finish_f32(sums, count, row_scale, scales, bias, output.f32 + at);
    return;
  }
  const uint16_t* residual = output.residual == nullptr ? nullptr : output.residual + at;
  ops.finish(sums, count, row_scale, scales, bias, residual, output.bf16 + at);
}

// Hands the sums of piece `piece` of a tile on: finished, or as they are.
void Emit(const Tile& tile, const LinearOutput& output, int64_t piece, const void* sums) {
  const Linear& linear = *tile.linear;
  const int64_t channel = tile.group_begin * kTileChannels;
  const int64_t count = std::min(tile.group_end * kTileChannels, linear.channels) - channel;
  for (int64_t i = 0; i < tile.rows; ++i) {
    const int64_t row = tile.row + i;
    const auto* from = static_cast<const float*>(sums) + i * tile.columns();
    if (output.pieces != nullptr) {
      const int64_t at = (piece * tile.input->rows + row) * linear.channels + channel;
      std::memcpy(output.pieces + at * 4, from, static_cast<size_t>(count) * 4);
      continue;
    }
    const float row_scale =
        tile.input->row_scales == nullptr ? linear.static_scale : tile.input->row_scales[row];
    FinishRow(*tile.ops, linear, from, channel, count, row_scale, output, row);
  }
}

void RunTile(const Tile& tile, const LinearOutput& output, float* sums) {
  const Linear& linear = *tile.linear;
  if (linear.form == InputForm::kInt8Token) {
    auto* exact = reinterpret_cast<int32_t*>(sums);
    tile.ops->sum_int8(linear.packed, PartOf(tile, 0, linear.packed.block_count),
                       tile.input->codes + tile.row * tile.input->stride, tile.input->stride, exact,
                       tile.columns());
    if (output.pieces != nullptr) {
      Emit(tile, output, 0, exact);
      return;
    }
    float* real = sums + kTileSums;
    for (int64_t i = 0; i < tile.rows; ++i) {
      tile.ops->from_int32(exact + i * tile.columns(), tile.columns(), real + i * tile.columns());
    }
    Emit(tile, output, 0, real);
    return;
  }
  for (size_t piece = 0; piece < linear.pieces.size(); ++piece) {
    SumTree(tile, linear.pieces[piece], sums);
    Emit(tile, output, static_cast<int64_t>(piece), sums);
  }
}

int64_t GroupsOf(const LinearJob& job) { return job.linear->packed.group_count; }

// Few rows: as many channels as leave several tasks for every thread.
int64_t GroupsPerTask(const LinearJob& job) {
  return job.input.rows == 1 && GroupsOf(job) >= 4 * Workspace::kOneRowGroups
             ? Workspace::kOneRowGroups
             : Workspace::kTileGroups;
}

}  // namespace

void RunLinears(const MatmulOps& ops, ThreadPool* pool, std::span<const LinearJob> jobs,
                Workspace* workspace) {
  int64_t tasks = 0;
  for (const LinearJob& job : jobs) tasks += CeilDiv(GroupsOf(job), GroupsPerTask(job));
  const auto run = [&](int64_t task, int thread) {
    size_t index = 0;
    for (; index < jobs.size(); ++index) {
      const int64_t own = CeilDiv(GroupsOf(jobs[index]), GroupsPerTask(jobs[index]));
      if (task < own) break;
      task -= own;
    }
    const LinearJob& job = jobs[index];
    Tile tile = {&ops, job.linear, &job.input, 0, 0, task * GroupsPerTask(job), 0};
    tile.group_end = std::min(tile.group_begin + GroupsPerTask(job), GroupsOf(job));
    for (tile.row = 0; tile.row < job.input.rows; tile.row += kTileRows) {
      tile.rows = std::min(kTileRows, job.input.rows - tile.row);
      RunTile(tile, job.output, workspace->ThreadSums(thread));
    }
  };
  pool->ParallelFor(tasks, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t task = begin; task < end; ++task) run(task, thread);
  });
}

void MergeAndFinish(const MatmulOps& ops, ThreadPool* pool, const MergeJob& job) {
  const Linear& linear = *job.linear;
  const int64_t channels = linear.channels;
  const bool exact = linear.form == InputForm::kInt8Token;
  const auto merge_row = [&](int64_t row) {
    const auto piece = [&](int index) {
      return job.base + job.offsets[index] + row * channels * 4;
    };
    for (const MergeStep& step : job.steps) {
      if (!exact) {
        ops.add(reinterpret_cast<float*>(piece(step.into)),
                reinterpret_cast<const float*>(piece(step.from)), channels);
        continue;
      }
      auto* into = reinterpret_cast<uint32_t*>(piece(step.into));
      const auto* from = reinterpret_cast<const uint32_t*>(piece(step.from));
      for (int64_t i = 0; i < channels; ++i) into[i] += from[i];
    }
    auto* sums = reinterpret_cast<float*>(piece(0));
    if (exact) ops.from_int32(reinterpret_cast<const int32_t*>(sums), channels, sums);
    FinishRow(ops, linear, sums, 0, channels,
              job.row_scales == nullptr ? linear.static_scale : job.row_scales[row], job.output,
              row);
  };
  pool->ParallelFor(job.rows, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) merge_row(row);
  });
}

}  // namespace octavo
