#include "worker/stage/calibrate.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/fault.h"
#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/plan/layer_plan.h"
#include "core/plan/scratch_files.h"
#include "core/scheme/compat.h"
#include "core/scheme/point_stats.h"
#include "core/store/local_store.h"
#include "core/tensor/bare/units.h"
#include "fmt/format.h"
#include "worker/quant/observer.h"
#include "worker/quant/smooth.h"
#include "worker/runner/layer_runner.h"
#include "worker/stage/layer_cache.h"
#include "worker/stage/scratch_writer.h"
#include "worker/stage/sense.h"
#include "worker/stage/smooth.h"
#include "worker/stage/solve.h"
#include "worker/stage/unit_run.h"

namespace octavo {
namespace {

using Rows = std::vector<uint16_t>;  // [tokens][hidden] BF16

// Keys and values are observed as they are cached, or, where a mode looks there, as projected.
bool IsWanted(const CompatMode& mode, v1::ObservedPoint point) {
  switch (point) {
    case v1::OBSERVED_KEY:
    case v1::OBSERVED_VALUE:
      return !mode.projected_cache;
    case v1::OBSERVED_QUERY_PROJECTED:
    case v1::OBSERVED_KEY_PROJECTED:
    case v1::OBSERVED_VALUE_PROJECTED:
      return mode.projected_cache;
    default:
      return true;
  }
}

bool Contains(const auto& points, v1::ObservedPoint point) {
  return std::find(points.begin(), points.end(), point) != points.end();
}

std::span<std::byte> BytesOf(auto& values) { return std::as_writable_bytes(std::span(values)); }

// One task on its way.
class CalibrateRun {
 public:
  CalibrateRun(const v1::Task& task, Isa isa)
      : task_(task),
        own_(task.calibrate()),
        isa_(isa),
        hidden_(own_.layer().model().hidden_size()) {
    receipt_.set_job_id(task.job_id());
    receipt_.set_unit_id(task.unit().id());
    receipt_.set_epoch(task.epoch());
  }

  absl::StatusOr<v1::Receipt> Do(LayerCache* cache, int threads, const std::stop_token& stop);

 private:
  uint64_t tokens() const { return own_.batch().token_end() - own_.batch().token_begin(); }
  std::string Path(const std::string& name) const { return JoinPath(task_.scratch_dir(), name); }

  absl::Status CheckTask() const;
  absl::StatusOr<Rows> ReadRows();
  absl::Status Look(const Observed& seen);
  // Where row `row` of the micro-batch lies, for people.
  std::string PlaceOf(int64_t row) const;
  absl::Status Leave(const std::string& name, std::span<const std::byte> bytes) {
    return LeaveScratchFile(task_.scratch_dir(), name, bytes, &receipt_);
  }
  bool propagates() const { return task_.unit().kind() == v1::UNIT_PROPAGATE; }
  LayerCache::Request RequestOf(const LayerCache& cache, int threads) const;
  absl::Status LeaveKept();
  absl::Status LeaveAll(const Rows& rows);
  absl::Status RemoveSpent();
  std::string StatsBytes() const;

  const v1::Task& task_;
  const v1::CalibrateTask& own_;
  const Isa isa_;
  const int64_t hidden_;
  LocalStore store_;
  struct Point {
    PointObserver observer;
    uint64_t routed = 0;
  };
  std::map<std::pair<int32_t, int>, Point> points_;  // by (expert, point)
  // What Hessians will be made of, by (point, expert).
  std::map<std::pair<int, int32_t>, Rows> kept_;
  std::map<int, ChannelAmax> channels_;  // by point
  v1::Receipt receipt_;
};

absl::Status CalibrateRun::CheckTask() const {
  const auto tokens_of_samples =
      std::accumulate(own_.sample_lengths().begin(), own_.sample_lengths().end(), uint64_t{0});
  if (own_.layer().ranks_size() == 1 && own_.layer().model().layer_count() == 1 &&
      tokens_of_samples == tokens() && tokens() > 0 && !task_.scratch_dir().empty()) {
    return absl::OkStatus();
  }
  return MakeError(Reason::kInternal, "a calibrating task does not fit its samples");
}

absl::StatusOr<Rows> CalibrateRun::ReadRows() {
  const uint32_t layer = task_.unit().layer();
  Rows rows(tokens() * static_cast<uint64_t>(hidden_));
  if (layer > 0) {
    OCTAVO_RETURN_IF_ERROR(
        store_.ReadAt(Path(RowsFileName(layer, task_.unit().batch())), 0, BytesOf(rows)));
    return rows;
  }
  std::vector<int32_t> ids(tokens());
  OCTAVO_RETURN_IF_ERROR(
      store_.ReadAt(Path(kIdsFileName), own_.batch().token_begin() * 4, BytesOf(ids)));
  OCTAVO_RETURN_IF_ERROR(ReadEmbeddingRows(task_.source_dir(), own_.embedding(), ids, rows.data()));
  return rows;
}

std::string CalibrateRun::PlaceOf(int64_t row) const {
  uint32_t sample = own_.batch().sample_begin();
  for (const uint32_t length : own_.sample_lengths()) {
    if (row < length) break;
    row -= length;
    ++sample;
  }
  return fmt::format("token {} of calibration sample {}", row, sample);
}

absl::Status CalibrateRun::Look(const Observed& seen) {
  if (propagates() || !IsWanted(CompatModeOf(task_.compat()), seen.point)) return absl::OkStatus();
  const std::pair<int32_t, int> key = {seen.expert, static_cast<int>(seen.point)};
  Point& point = points_.try_emplace(key, Point{{own_.observer(), isa_}}).first->second;
  point.routed += static_cast<uint64_t>(seen.routed);
  if (Contains(task_.unit().smoothed_points(), seen.point)) {
    ChannelAmax& amax = channels_[static_cast<int>(seen.point)];
    amax.resize(static_cast<size_t>(seen.columns));
    AddChannelAmax(seen.x, seen.rows, &amax);
  }
  if (Contains(task_.unit().kept_points(), seen.point)) {
    Rows& rows = kept_[{static_cast<int>(seen.point), seen.expert}];
    if (seen.expert < 0) rows.reserve(tokens() * static_cast<uint64_t>(seen.columns));
    rows.insert(rows.end(), seen.x, seen.x + seen.rows * seen.columns);
  }
  const auto bad = point.observer.Add(seen.x, seen.rows, seen.columns, seen.columns);
  if (!bad) return absl::OkStatus();
  v1::PointStat place;
  place.set_layer(static_cast<int32_t>(task_.unit().layer()));
  place.set_expert(seen.expert);
  place.set_point(seen.point);
  return MakeError(
      Reason::kNonFinite,
      fmt::format("an activation is {} at {}{}", bad->is_nan ? "NaN" : "infinite", PointName(place),
                  seen.expert < 0 ? ", " + PlaceOf(bad->row) : std::string()),
      {}, "The model overflows BF16 on this input");
}

std::string CalibrateRun::StatsBytes() const {
  v1::LayerStats stats;
  for (const auto& [where, point] : points_) {
    v1::PointStat* stat = stats.add_points();
    *stat = point.observer.ToStat();
    stat->set_routed(point.routed);
    stat->set_layer(static_cast<int32_t>(task_.unit().layer()));
    stat->set_expert(where.first);
    stat->set_point(static_cast<v1::ObservedPoint>(where.second));
  }
  for (const auto& [point, amax] : channels_) {
    v1::ChannelMaxima* maxima = stats.add_channels();
    maxima->set_point(static_cast<v1::ObservedPoint>(point));
    maxima->set_amax(amax.data(), amax.size() * sizeof(amax[0]));
  }
  return stats.SerializeAsString();
}

LayerCache::Request CalibrateRun::RequestOf(const LayerCache& cache, int threads) const {
  const uint32_t longest =
      *std::max_element(own_.sample_lengths().begin(), own_.sample_lengths().end());
  LayerCache::Request request;
  request.key = fmt::format("{}/{}{}", task_.job_id(), task_.unit().layer(),
                            propagates() ? " quantized" : "");
  request.weight_bytes = LayerWeightBytes(own_.layer());
  request.run_bytes =
      LayerRunBytes(own_.layer(), static_cast<int64_t>(tokens()), longest) + own_.kept_bytes();
  LayerRunner::Options options = {.threads = threads, .isa = isa_};
  if (request.weight_bytes + request.run_bytes > cache.limit()) {
    options.residency = Residency::kStreamed;
    request.weight_bytes = 0;
    request.run_bytes += kStreamedLayerBytes;  // of every run
    request.key += " streamed";
  }
  const std::string& dir = propagates() ? task_.staging_dir() : task_.source_dir();
  request.load = [this, &dir, options] { return LayerRunner::Load(dir, own_.layer(), options); };
  return request;
}

absl::Status CalibrateRun::LeaveKept() {
  for (const int point : task_.unit().kept_points()) {
    uint64_t size = 0;
    const auto begin = kept_.lower_bound({point, -1});
    const auto end = kept_.lower_bound({point + 1, -1});
    for (auto part = begin; part != end; ++part) size += part->second.size() * 2;
    OCTAVO_ASSIGN_OR_RETURN(
        ScratchWriter writer,
        ScratchWriter::Create(task_.scratch_dir(),
                              KeptFileName(task_.unit().layer(), task_.unit().batch(), point),
                              size));
    for (auto part = begin; part != end; ++part) {
      OCTAVO_RETURN_IF_ERROR(writer.Append(BytesOf(part->second)));
    }
    OCTAVO_RETURN_IF_ERROR(writer.Finish(&receipt_));
  }
  return absl::OkStatus();
}

absl::Status CalibrateRun::LeaveAll(const Rows& rows) {
  const uint32_t layer = task_.unit().layer();
  const uint32_t batch = task_.unit().batch();
  if (!propagates()) {
    const std::string stats = StatsBytes();
    OCTAVO_RETURN_IF_ERROR(Leave(StatsFileName(layer, batch), std::as_bytes(std::span(stats))));
    OCTAVO_RETURN_IF_ERROR(LeaveKept());
  }
  FaultPoint("mid-write");
  if (own_.last()) return absl::OkStatus();
  return Leave(RowsFileName(layer + 1, batch), std::as_bytes(std::span(rows)));
}

// This task was leased because what comes before it is durably done: nobody needs what that read.
absl::Status CalibrateRun::RemoveSpent() {
  const uint32_t layer = task_.unit().layer();
  const uint32_t batch = task_.unit().batch();
  if (propagates() || layer == 0) return absl::OkStatus();
  if (layer > 1) OCTAVO_RETURN_IF_ERROR(store_.RemoveTree(Path(RowsFileName(layer - 1, batch))));
  if (task_.unit().phase() == 0) return absl::OkStatus();  // nothing is solved
  for (int point = v1::OBSERVED_ATTENTION_INPUT; point <= v1::OBSERVED_MLP_INNER; ++point) {
    OCTAVO_RETURN_IF_ERROR(store_.RemoveTree(Path(KeptFileName(layer - 1, batch, point))));
    for (uint32_t leaf = 0; batch == 0 && leaf < kHessianLeavesMax; ++leaf) {
      OCTAVO_RETURN_IF_ERROR(store_.RemoveTree(Path(HessianFileName(layer - 1, point, leaf))));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Receipt> CalibrateRun::Do(LayerCache* cache, int threads,
                                             const std::stop_token& stop) {
  OCTAVO_RETURN_IF_ERROR(CheckTask());
  const std::vector<v1::SourceFile> sources(task_.sources().begin(), task_.sources().end());
  OCTAVO_RETURN_IF_ERROR(CheckUnchangedQuickly(store_, task_.source_dir(), sources));
  const std::vector<uint32_t> lengths(own_.sample_lengths().begin(), own_.sample_lengths().end());
  OCTAVO_ASSIGN_OR_RETURN(const LayerCache::Loan loan,
                          cache->Borrow(RequestOf(*cache, threads), stop));
  double read = 0, compute = 0, write = 0;
  Rows rows;
  {
    const Stopwatch watch(&read);
    OCTAVO_ASSIGN_OR_RETURN(rows, ReadRows());
  }
  {
    const Stopwatch watch(&compute);
    OCTAVO_RETURN_IF_ERROR(loan.layer().Run(
        {lengths, own_.expert_quota()}, rows.data(),
        [&](const Observed& seen) { return Look(seen); }, stop));
  }
  if (stop.stop_requested()) return MakeError(Reason::kCancelled, "the task was stopped");
  OCTAVO_RETURN_IF_ERROR(CheckUnchangedQuickly(store_, task_.source_dir(), sources));
  {
    const Stopwatch watch(&write);
    OCTAVO_RETURN_IF_ERROR(LeaveAll(rows));
    OCTAVO_RETURN_IF_ERROR(RemoveSpent());
  }
  receipt_.set_bytes_read(rows.size() * 2);
  receipt_.set_read_seconds(read);
  receipt_.set_cast_seconds(compute);
  receipt_.set_write_seconds(write);
  return std::move(receipt_);
}

absl::StatusOr<v1::Receipt> RunCalibrate(const v1::Task& task, const CalibrateStage::Options& how,
                                         LayerCache* cache, const std::stop_token& stop) {
  CalibrateRun run(task, how.isa);
  return run.Do(cache, how.threads, stop);
}

}  // namespace

struct CalibrateStage::State {
  explicit State(const Options& chosen) : options(chosen), cache(chosen.memory_bytes) {}
  absl::StatusOr<v1::Receipt> Do(const v1::Task& task, const std::stop_token& stop);

  const Options options;
  LayerCache cache;
  Mutex mutex;
  std::vector<std::string> touched OCTAVO_GUARDED_BY(mutex);
};

CalibrateStage::CalibrateStage(const Options& options) : state_(std::make_unique<State>(options)) {}
CalibrateStage::~CalibrateStage() = default;

bool CalibrateStage::Does(v1::UnitKind kind) {
  return kind == v1::UNIT_CALIBRATE || kind == v1::UNIT_PROPAGATE || kind == v1::UNIT_HESSIAN ||
         kind == v1::UNIT_SOLVE || kind == v1::UNIT_SMOOTH || kind == v1::UNIT_SENSE;
}

absl::StatusOr<v1::Receipt> CalibrateStage::State::Do(const v1::Task& task,
                                                      const std::stop_token& stop) {
  if (!LocalStore().Exists(JoinPath(task.scratch_dir(), kIdsFileName))) {
    return MakeError(Reason::kFenced, "the scratch folder is gone: its job ended",
                     {.file = task.scratch_dir()});
  }
  switch (task.unit().kind()) {
    case v1::UNIT_HESSIAN:
    case v1::UNIT_SOLVE:
      return RunSolve(task, options.isa, options.threads, &cache, stop);
    case v1::UNIT_SMOOTH:
      return RunSmooth(task, &cache, stop);
    case v1::UNIT_SENSE:
      return RunSense(task, options.isa, options.threads, &cache, stop);
    default:
      return RunCalibrate(task, options, &cache, stop);
  }
}

absl::StatusOr<v1::Receipt> CalibrateStage::Run(const v1::Task& task, std::stop_token stop) {
  OCTAVO_ASSIGN_OR_RETURN(v1::Receipt receipt, state_->Do(task, stop));
  MutexLock lock(state_->mutex);
  for (const v1::ScratchFile& file : receipt.scratch()) {
    if (IsSynced(file.name())) {
      state_->touched.push_back(JoinPath(task.scratch_dir(), file.name()));
    }
  }
  for (const v1::RangeDigest& range : receipt.ranges()) {
    const auto file = static_cast<int>(range.range().file());
    state_->touched.push_back(JoinPath(task.staging_dir(), task.output_names(file)));
  }
  return receipt;
}

absl::Status CalibrateStage::SyncTouched() {
  std::vector<std::string> files;
  {
    MutexLock lock(state_->mutex);
    files.swap(state_->touched);
  }
  LocalStore store;
  absl::Status first;
  std::set<std::string> folders;
  for (const std::string& file : files) {
    if (!store.Exists(file)) continue;  // its job has ended, or nobody needs it any more
    first.Update(store.Sync(file));
    folders.insert(std::filesystem::path(file).parent_path().native());
  }
  for (const std::string& folder : folders) first.Update(store.Sync(folder));
  return first;
}

void CalibrateStage::DropIdle() { state_->cache.DropIdle(); }

uint64_t CalibrateStage::bytes_in_use() const { return state_->cache.in_use(); }

}  // namespace octavo
