#include "worker/stage/smooth.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/plan/scratch_files.h"
#include "core/store/local_store.h"
#include "core/store/store.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"
#include "worker/stage/layer_stats.h"
#include "worker/stage/scratch_writer.h"
#include "worker/stage/source_files.h"
#include "worker/stage/unit_run.h"

namespace octavo {
namespace {

constexpr uint64_t kFoldBytesMax = 16u << 20;

// Over all micro-batches.
absl::StatusOr<ChannelAmax> ReadInputAmax(const v1::Task& task) {
  const v1::SmoothSpec& spec = task.unit().smooth();
  ChannelAmax amax(static_cast<size_t>(spec.channels()));
  for (int batch = 0; batch < task.solve().batches_size(); ++batch) {
    OCTAVO_ASSIGN_OR_RETURN(
        const LayerStatsFile file,
        ReadLayerStats(task.scratch_dir(), task.unit().layer(), static_cast<uint32_t>(batch)));
    const v1::ChannelMaxima* found = nullptr;
    for (const v1::ChannelMaxima& maxima : file.stats.channels()) {
      if (maxima.point() == spec.point()) found = &maxima;
    }
    if (found == nullptr || found->amax().size() != amax.size() * sizeof(uint16_t)) {
      return MakeError(Reason::kCorrupted, "not statistics of a layer's channels",
                       {.file = file.path});
    }
    ChannelAmax part(amax.size());
    std::memcpy(part.data(), found->amax().data(), found->amax().size());
    AddChannelAmax(part.data(), 1, &amax);
  }
  return amax;
}

// Over all pieces that will be quantized.
absl::StatusOr<std::vector<uint32_t>> ReadWeightAmax(const v1::Task& task, BufferBudget* budget,
                                                     const std::stop_token& stop) {
  OCTAVO_ASSIGN_OR_RETURN(SourceFiles sources, SourceFiles::Open(task));
  ExpectReads(task, &sources);
  OCTAVO_ASSIGN_OR_RETURN(BufferBudget::Loan loan,
                          budget->Borrow(UnitRun::BufferBytesOf(task), stop));
  std::vector<uint32_t> amax(static_cast<size_t>(task.unit().smooth().channels()));
  for (const v1::Piece& piece : task.unit().pieces()) {
    if (!piece.has_format()) continue;
    const v1::TensorSpec& spec = piece.source();
    const uint64_t row_bytes = RowBytes(piece);
    for (int64_t row = piece.row_begin(); row < piece.row_end(); row += ChunkRows(piece)) {
      if (stop.stop_requested()) return MakeError(Reason::kCancelled, "the task was stopped");
      WeightRows rows;
      rows.rows = std::min(ChunkRows(piece), piece.row_end() - row);
      rows.row_begin = row;
      rows.columns = ColumnsOf(spec);
      rows.dtype = FromProto(spec.dtype());
      rows.tensor = spec.name();
      rows.file = spec.file();
      rows.file_offset = spec.begin() + static_cast<uint64_t>(row) * row_bytes;
      const uint64_t size = static_cast<uint64_t>(rows.rows) * row_bytes;
      OCTAVO_ASSIGN_OR_RETURN(rows.bytes,
                              sources.Read(spec.file(), rows.file_offset, size,
                                           loan.bytes().first(SourceFiles::RoomFor(size))));
      OCTAVO_RETURN_IF_ERROR(AddColumnAmax(rows, &amax));
    }
  }
  return amax;
}

v1::SmoothFigures FiguresOf(const v1::Unit& unit, const Exponents& exponents) {
  v1::SmoothFigures figures;
  figures.set_layer(unit.layer());
  figures.set_point(unit.smooth().point());
  const auto [least, most] = std::minmax_element(exponents.begin(), exponents.end());
  figures.set_exponent_min(*least);
  figures.set_exponent_max(*most);
  figures.set_changed(exponents.size() -
                      static_cast<size_t>(std::count(exponents.begin(), exponents.end(), 0)));
  return figures;
}

}  // namespace

absl::StatusOr<Exponents> ReadFold(const v1::Task& task, const v1::Fold& fold) {
  const std::string path = JoinPath(task.scratch_dir(), FoldFileName(fold.layer(), fold.point()));
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ReadWhole(LocalStore(), path, kFoldBytesMax));
  Exponents exponents(text.begin(), text.end());
  const auto wrong = std::find_if(exponents.begin(), exponents.end(),
                                  [](int8_t k) { return k < -kExponentMax || k > kExponentMax; });
  if (wrong == exponents.end()) return exponents;
  return MakeError(Reason::kCorrupted, fmt::format("{} is no exponent of smoothing", *wrong),
                   {.file = path});
}

absl::StatusOr<v1::Receipt> RunSmooth(const v1::Task& task, LayerCache* memory,
                                      const std::stop_token& stop) {
  const v1::SmoothSpec& spec = task.unit().smooth();
  if (spec.channels() <= 0 || task.solve().batches().empty()) {
    return MakeError(Reason::kInternal, "a smoothing task without channels");
  }
  const uint64_t bytes = UnitRun::BufferBytesOf(task);
  OCTAVO_ASSIGN_OR_RETURN(const LayerCache::Loan loan, memory->BorrowBytes(bytes, stop));
  BufferBudget budget(bytes);
  OCTAVO_ASSIGN_OR_RETURN(const ChannelAmax inputs, ReadInputAmax(task));
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<uint32_t> weights, ReadWeightAmax(task, &budget, stop));
  const Exponents exponents = SmoothingExponents(inputs, weights, spec.strength());
  v1::Receipt left;
  OCTAVO_RETURN_IF_ERROR(LeaveScratchFile(task.scratch_dir(),
                                          FoldFileName(task.unit().layer(), spec.point()),
                                          std::as_bytes(std::span(exponents)), &left));
  OCTAVO_ASSIGN_OR_RETURN(
      const std::unique_ptr<UnitRun> run,
      UnitRun::Open(
          task, [](const QuantizeRule&) { return std::unique_ptr<Quantizer>(); }, &budget, stop));
  OCTAVO_RETURN_IF_ERROR(run->Do());
  v1::Receipt receipt = run->TakeReceipt();
  *receipt.mutable_scratch() = std::move(*left.mutable_scratch());
  *receipt.mutable_smoothed() = FiguresOf(task.unit(), exponents);
  return receipt;
}

}  // namespace octavo
