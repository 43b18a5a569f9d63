// Products whose K is spread over the ranks: every rank sums the units it owns, all learn all
// pieces, and each finishes its own copy of the rows.

#include "core/base/status.h"
#include "worker/runner/forward.h"

namespace octavo {
namespace {

// Where a run's pieces lie in every rank's buffer, in bytes.
struct PieceRegion {
  int64_t begin = 0;
  int64_t piece_bytes = 0;
};

}  // namespace

const PieceMap& Forward::AttentionPieces(const Linear& linear) const {
  return linear.form == InputForm::kInt8Token ? exact_pieces_ : attention_pieces_;
}

const PieceMap& Forward::MlpPieces(const Linear& linear) const {
  return linear.form == InputForm::kInt8Token ? exact_pieces_ : mlp_pieces_;
}

LinearOutput Forward::Residual() const {
  LinearOutput output;
  output.bf16 = x_.as<uint16_t>();
  output.residual = x_.as<uint16_t>();
  output.stride = hidden_;
  return output;
}

absl::Status Forward::RowParallel(std::span<const RowRun> runs, const uint16_t* input,
                                  const LinearOutput& output) {
  std::vector<InputUse> uses;
  for (const RowRun& run : runs) uses.push_back({run.linear, run.begin, run.end});
  const bool spread = exchange_.ranks() > 1;
  ExchangeMax exchange;
  if (spread) exchange = [this](std::span<uint32_t> values) { return exchange_.Max(values); };
  OCTAVO_RETURN_IF_ERROR(inputs_.Prepare(uses, input, uses.front().linear->depth, exchange));
  std::vector<LinearJob> jobs;
  std::vector<PieceRegion> regions;
  int64_t bytes = 0;  // of one rank's pieces
  for (size_t i = 0; i < runs.size(); ++i) {
    const RowRun& run = runs[i];
    const int64_t rows = run.end - run.begin;
    jobs.push_back(
        {run.linear, inputs_.For(uses[i]), spread ? LinearOutput() : output.From(run.begin)});
    regions.push_back({bytes, rows * run.linear->channels * 4});
    bytes += run.pieces->pieces_per_rank * regions.back().piece_bytes;
  }
  if (!spread) return Products(jobs);
  OCTAVO_ASSIGN_OR_RETURN(std::byte * send, exchange_.SendBuffer(static_cast<uint64_t>(bytes)));
  for (size_t i = 0; i < jobs.size(); ++i) jobs[i].output.pieces = send + regions[i].begin;
  RunLinears(matmul_, pool_, jobs, &workspace_);
  OCTAVO_ASSIGN_OR_RETURN(std::byte * all, exchange_.Gather());
  for (size_t i = 0; i < jobs.size(); ++i) {
    const PieceMap& pieces = *runs[i].pieces;
    std::vector<int64_t> offsets;
    for (const int slot : pieces.slots) {
      const int64_t rank = slot / pieces.pieces_per_rank;
      const int64_t index = slot % pieces.pieces_per_rank;
      offsets.push_back(rank * bytes + regions[i].begin + index * regions[i].piece_bytes);
    }
    MergeJob merge;
    merge.base = all;
    merge.linear = runs[i].linear;
    merge.row_scales = jobs[i].input.row_scales;
    merge.rows = jobs[i].input.rows;
    merge.offsets = offsets;
    merge.steps = pieces.steps;
    merge.output = output.From(runs[i].begin);
    MergeAndFinish(matmul_, pool_, merge);
  }
  return absl::OkStatus();
}

}  // namespace octavo
