// Which kernel a product takes, how it is cut into work, and the merge of units and of ranks.

#include <algorithm>
#include <vector>

#include "kernels/cuda/dense/dense_kernel.h"

namespace octavo::cuda {

// Adds up pieces of a product and finishes it.
template <typename Sum>
struct DenseMergeKernel {
  static constexpr int kThreads = 256;
  static constexpr int kDepth = StackDepth(kDensePiecesMax);
  const Sum* from = nullptr;  // [piece][elements]
  Sum* to = nullptr;          // [result][elements]; null: finish
  int64_t rows = 0;
  int64_t channels = 0;
  DenseExperts experts = {};
  DenseFinish finish;
  int results = 1;
  LeafRun runs[DenseWork::kRunsMax] = {};  // of each result, in pieces
  uint8_t merges[kDensePiecesMax] = {};    // after each piece

  // One element of one result. `stack` is this thread's column, kThreads apart.
  OCTAVO_DEVICE Sum Merged(LeafRun run, int64_t element, Sum* stack) const {
    int depth = 0;
    Sum top = 0;
    for (int piece = run.begin; piece < run.end; ++piece) {
      if (piece > run.begin) stack[depth++ * kThreads] = top;
      top = from[piece * rows * channels + element];
      for (int left = merges[piece]; left > 0; --left) top = stack[--depth * kThreads] + top;
    }
    return top;
  }

  OCTAVO_DEVICE void operator()() const {
    Sum* stack = simt::SharedMemory<Sum>() + simt::ThreadIndex();
    const int64_t elements = rows * channels;
    const int result = simt::BlockRow();
    for (int64_t i = int64_t{simt::Block()} * kThreads + simt::ThreadIndex(); i < elements;
         i += int64_t{simt::Blocks()} * kThreads) {
      const int64_t row = i / channels;
      const int expert = ExpertOf(experts, row);
      if (experts.count > 0 && expert == experts.count) continue;
      const Sum sum = Merged(runs[result], i, stack);
      if (to != nullptr) {
        to[result * elements + i] = sum;
      } else {
        FinishElement(finish, FinishOf(experts, finish, channels, expert), row, i % channels, sum);
      }
    }
  }
};

namespace {

constexpr int64_t kMergeBlocksMax = 1 << 14;
constexpr int64_t kWorkBlocksMax = 1 << 24;

template <typename Sum>
void LaunchMerge(const DenseMergeKernel<Sum>& kernel, simt::Stream stream) {
  const int64_t blocks = CeilDiv(kernel.rows * kernel.channels, kernel.kThreads);
  simt::Launch(kernel,
               {.blocks = static_cast<int>(blocks < kMergeBlocksMax ? blocks : kMergeBlocksMax),
                .rows = kernel.results,
                .shared_bytes = kernel.kDepth * kernel.kThreads * 4},
               stream);
}

std::span<const DenseEntry> EntriesOf(DenseTypes types) {
  switch (types) {
    case DenseTypes::kFp8:
      return DenseFp8Entries();
    case DenseTypes::kFp8Blocks:
      return DenseFp8BlocksEntries();
    case DenseTypes::kInt8:
      return DenseInt8Entries();
    case DenseTypes::kBf16:
      return DenseBf16Entries();
    case DenseTypes::kBf16Fp8:
      return DenseBf16Fp8Entries();
  }
  return {};
}

struct DensePlan {
  DenseTile tile = DenseTile::kAny;
  DenseWork work = {};                 // without what points into the workspace
  std::vector<LeafRun> subtrees = {};  // of the result, counted from the first unit here
  bool merge = false;                  // the work makes units, a second kernel merges them
  int64_t workspace_bytes = 0;
};

DensePlan PlanOf(const Dense& call) {
  DensePlan plan{.tile = call.tile != DenseTile::kAny
                             ? call.tile
                             : DenseTileFor(call.types,
                                            CeilDiv(call.rows, std::max(call.experts.count, 1)),
                                            call.channels, call.blocks)};
  const TileShape shape = ShapeOf(plan.tile);
  const bool whole = call.units.count == 0;
  const LeafRun here = whole ? LeafRun{0, 1} : call.run;
  DenseWork& work = plan.work;
  work.call = call;
  work.unit_size = whole ? call.depth : call.units.size;
  work.unit_stages =
      static_cast<int>(CeilDiv(std::min(work.unit_size, call.depth), StageDepth(call.types)));
  work.sums = call.sums;
  int most_units = 1;
  for (const LeafRun& node : MaximalSubtrees(whole ? 1 : call.units.count, here)) {
    plan.subtrees.push_back({node.begin - here.begin, node.end - here.begin});
    most_units = std::max(most_units, node.end - node.begin);
  }
  const int64_t tiles = TileOrder::Of(shape, call.rows, call.channels, call.experts.count).count();
  work.pieces = static_cast<int>(plan.subtrees.size());
  std::copy(plan.subtrees.begin(), plan.subtrees.end(), work.runs);
  // Too few tiles to keep the GPU busy: every unit goes to blocks of its own.
  plan.merge = most_units > 1 && tiles * work.pieces < call.blocks;
  if (plan.merge) {
    work.pieces = here.end - here.begin;
    work.single_units = true;
    plan.workspace_bytes = work.pieces * call.rows * call.channels * 4;
  }
  work.blocks = std::min(tiles * work.pieces, int64_t{kWorkBlocksMax});
  if (most_units > 1 && !plan.merge) {
    work.blocks = std::min(work.blocks, int64_t{call.blocks});
    work.stack_depth = StackDepth(most_units);
    plan.workspace_bytes = work.blocks * work.stack_depth * shape.channels * shape.rows * 4;
  }
  return plan;
}

template <typename Sum>
void MergeUnits(const Dense& call, const DensePlan& plan, simt::Stream stream) {
  DenseMergeKernel<Sum> kernel{.from = static_cast<const Sum*>(call.workspace),
                               .to = static_cast<Sum*>(call.sums),
                               .rows = call.rows,
                               .channels = call.channels,
                               .experts = call.experts,
                               .finish = call.finish,
                               .results = static_cast<int>(plan.subtrees.size())};
  std::copy(plan.subtrees.begin(), plan.subtrees.end(), kernel.runs);
  for (const LeafRun& node : plan.subtrees) {
    for (int i = node.begin; i < node.end; ++i) {
      kernel.merges[i] = static_cast<uint8_t>(MergesAfter(i - node.begin, node.end - node.begin));
    }
  }
  LaunchMerge(kernel, stream);
}

template <typename Sum>
void MergePieces(const DenseMerge& call, simt::Stream stream) {
  DenseMergeKernel<Sum> kernel{.from = static_cast<const Sum*>(call.sums),
                               .rows = call.rows,
                               .channels = call.channels,
                               .experts = call.experts,
                               .finish = call.finish};
  const int count = static_cast<int>(call.pieces.size());
  kernel.runs[0] = {0, count};
  // The steps as a stack does them: after a piece is pushed, as many as end at the top.
  const std::vector<MergeStep> steps = MergeSteps(call.units, call.pieces);
  std::vector<int> stack;
  size_t next = 0;
  for (int piece = 0; piece < count; ++piece) {
    stack.push_back(piece);
    while (next < steps.size() && steps[next].from == stack.back()) {
      stack.pop_back();
      ++kernel.merges[piece];
      ++next;
    }
  }
  LaunchMerge(kernel, stream);
}

}  // namespace

DenseTile DenseTileFor(DenseTypes types, int64_t rows, int64_t channels, int blocks) {
  if (rows <= ShapeOf(DenseTile::kRows8).rows) return DenseTile::kRows8;
  if (rows <= ShapeOf(DenseTile::kRows16).rows) return DenseTile::kRows16;
  if (types == DenseTypes::kBf16Fp8) return DenseTile::kRows64;
  const TileOrder large = TileOrder::Of(ShapeOf(DenseTile::kRows128), rows, channels, 0);
  const bool enough = rows > ShapeOf(DenseTile::kRows64).rows && large.count() >= blocks / 2;
  return enough ? DenseTile::kRows128 : DenseTile::kRows64;
}

int64_t DenseWorkspaceBytes(const Dense& call) { return PlanOf(call).workspace_bytes; }

void Launch(const Dense& call, simt::Stream stream) {
  if (call.rows == 0 || call.channels == 0) return;
  DensePlan plan = PlanOf(call);
  if (plan.merge) plan.work.sums = call.workspace;
  if (plan.work.stack_depth > 0) plan.work.stack = call.workspace;
  for (const DenseEntry& entry : EntriesOf(call.types)) {
    if (entry.row.tile == plan.tile) entry.launch(plan.work, stream);
  }
  if (!plan.merge) return;
  if (call.types == DenseTypes::kInt8) {
    MergeUnits<int32_t>(call, plan, stream);
  } else {
    MergeUnits<float>(call, plan, stream);
  }
}

void Launch(const DenseMerge& call, simt::Stream stream) {
  if (call.int32) {
    MergePieces<int32_t>(call, stream);
  } else {
    MergePieces<float>(call, stream);
  }
}

std::span<const DenseRow> DenseKernels() {
  static const std::vector<DenseRow> rows = [] {
    std::vector<DenseRow> all;
    for (const DenseTypes types : {DenseTypes::kFp8, DenseTypes::kFp8Blocks, DenseTypes::kInt8,
                                   DenseTypes::kBf16, DenseTypes::kBf16Fp8}) {
      for (const DenseEntry& entry : EntriesOf(types)) all.push_back(entry.row);
    }
    return all;
  }();
  return rows;
}

}  // namespace octavo::cuda
