#include "coordinator/control/lease_table.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using Entry = LeaseTable::Entry;
using Outcome = LeaseTable::Outcome;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(LeaseTable, LeasesLowestFirstAndPhaseAfterPhase) {
  const std::vector<Entry> entries = {{1}, {0}, {0}, {1}};
  LeaseTable table(entries);
  EXPECT_EQ(table.Lease("a", 1), 1u);
  EXPECT_EQ(table.Lease("b", 2), 2u);
  EXPECT_EQ(table.Next("a"), std::nullopt);  // phase 1 waits for phase 0
  EXPECT_EQ(table.Finish(1, 1), Outcome::kDone);
  EXPECT_EQ(table.Next("a"), std::nullopt);
  EXPECT_EQ(table.Finish(2, 2), Outcome::kDone);
  EXPECT_EQ(table.phase(), 1u);
  EXPECT_EQ(table.Lease("a", 3), 0u);
  EXPECT_EQ(table.Lease("a", 4), 3u);
  EXPECT_EQ(table.Finish(0, 3), Outcome::kDone);
  EXPECT_FALSE(table.all_done());
  EXPECT_EQ(table.Finish(3, 4), Outcome::kDone);
  EXPECT_TRUE(table.all_done());
  EXPECT_EQ(table.phase(), 2u);
}

TEST(LeaseTable, StaleEpochsChangeNothing) {
  const std::vector<Entry> entries = {{0}, {0}};
  LeaseTable table(entries);
  table.Lease("a", 1);
  table.Lease("a", 2);
  EXPECT_THAT(table.Release("a"), ElementsAre(0, 1));
  EXPECT_THAT(table.Release("a"), IsEmpty());
  EXPECT_EQ(table.Finish(0, 1), Outcome::kStale);  // waits
  EXPECT_EQ(table.Lease("b", 3), 0u);
  EXPECT_EQ(table.Finish(0, 1), Outcome::kStale);  // another's
  EXPECT_FALSE(table.GiveBack(0, 1));
  EXPECT_EQ(table.Finish(0, 3), Outcome::kDone);
  EXPECT_EQ(table.Finish(0, 1), Outcome::kDuplicate);
  EXPECT_EQ(table.Finish(7, 1), Outcome::kUnknown);
  EXPECT_EQ(table.attempts(0), 2u);
  EXPECT_EQ(table.attempts(1), 1u);
}

TEST(LeaseTable, ReopeningAUnitOfAnEarlierPhaseHoldsTheLaterOnesBack) {
  const std::vector<Entry> entries = {{0}, {1}};
  LeaseTable table(entries);
  table.MarkDone(0);
  EXPECT_EQ(table.Next("a"), 1u);
  table.Reopen(0);
  EXPECT_EQ(table.Next("a"), 0u);
  EXPECT_EQ(table.phase(), 0u);
  table.Lease("a", 1);
  EXPECT_EQ(table.Finish(0, 1), Outcome::kDone);
  EXPECT_EQ(table.Next("a"), 1u);
}

// Two layers of three micro-batches and one unit of no run.
TEST(LeaseTable, WorkersStayWithTheirRunsAndTakeFreeOnes) {
  const std::vector<Entry> entries = {{0, {}, 0}, {0, {}, 0}, {0, {}, 0}, {0, 0, 1},
                                      {0, 1, 1},  {0, 2, 1},  {0}};
  LeaseTable table(entries);
  EXPECT_EQ(table.Lease("a", 1), 0u);
  EXPECT_EQ(table.Next("b"), 6u);  // run 0 is a's: something else first
  EXPECT_EQ(table.Finish(0, 1), Outcome::kDone);
  EXPECT_EQ(table.Next("a"), 1u);  // stays, though unit 3 is open now
  EXPECT_EQ(table.Lease("b", 2), 3u);
  EXPECT_EQ(table.Lease("a", 3), 1u);
  EXPECT_EQ(table.Next("b"), 6u);
  EXPECT_EQ(table.Lease("b", 4), 6u);
  EXPECT_EQ(table.Next("b"), 2u);  // helps with a's run rather than wait
  table.Release("a");
  EXPECT_EQ(table.Next("c"), 1u);  // nobody is at run 0 any more
}

TEST(LeaseTable, ReopeningAUnitReopensWhatCameAfterIt) {
  const std::vector<Entry> entries = {{0, {}, 0}, {0, 0, 1}, {0, 1, 2}, {0, 2, 3}};
  LeaseTable table(entries);
  table.MarkDone(0);
  table.MarkDone(1);
  EXPECT_EQ(table.Lease("a", 1), 2u);
  EXPECT_THAT(table.Reopen(0), ElementsAre(0, 1));
  EXPECT_EQ(table.Finish(2, 1), Outcome::kStale);
  EXPECT_EQ(table.leased_count(), 0u);
  EXPECT_EQ(table.Lease("a", 2), 0u);
  EXPECT_EQ(table.Next("b"), std::nullopt);
}

// A plain model of what the table must do, compared after every step of a random history.
struct Model {
  struct Unit {
    Entry entry;
    bool done = false;
    std::string worker;  // leased to
    uint64_t epoch = 0;
  };
  std::vector<Unit> units;
  std::map<std::string, int32_t> run_of;

  uint32_t Phase() const {
    uint32_t phase = 0;
    for (const Unit& unit : units) phase = std::max(phase, unit.entry.phase + 1);
    for (const Unit& unit : units) {
      if (!unit.done) phase = std::min(phase, unit.entry.phase);
    }
    return phase;
  }
  bool Waits(const Unit& unit) const {
    return !unit.done && unit.worker.empty() && unit.entry.phase == Phase() &&
           (!unit.entry.after || units[*unit.entry.after].done);
  }
  // The unit that `worker` would like best: by kind of run, then run, then id.
  std::optional<uint32_t> Next(const std::string& worker) const {
    std::optional<std::pair<int, uint32_t>> best;
    for (uint32_t i = 0; i < units.size(); ++i) {
      if (!Waits(units[i])) continue;
      const int32_t run = units[i].entry.run;
      const bool taken = std::any_of(run_of.begin(), run_of.end(), [&](const auto& holder) {
        return holder.first != worker && holder.second == run;
      });
      const auto own = run_of.find(worker);
      int rank = 1000 + run;  // of another worker
      if (run == LeaseTable::kNoRun) {
        rank = 500;
      } else if (own != run_of.end() && own->second == run) {
        rank = 0;
      } else if (!taken) {
        rank = 1 + run;
      }
      if (!best || rank < best->first) best = {rank, i};
    }
    if (!best) return std::nullopt;
    return best->second;
  }
};

// One random history, driven over table and model at once.
class History {
 public:
  explicit History(uint32_t seed) : random_(seed), table_(Entries()) {}

  void Step() {
    const std::string worker(1, static_cast<char>('a' + Pick(4)));
    const uint32_t dice = Pick(8);
    if (dice < 3) {
      Lease(worker);
    } else if (dice < 5) {
      Report(/*receipt=*/true);  // any, current or old
    } else if (dice == 5) {
      Report(/*receipt=*/false);
    } else if (dice == 6) {
      Release(worker);
    } else if (Pick(4) == 0) {
      Reopen();
    }
    Compare(worker);
  }

 private:
  uint32_t Pick(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

  // Three phases; in each, some units come after one another.
  std::vector<Entry> Entries() {
    std::vector<Entry> entries;
    std::set<uint32_t> followed;
    for (uint32_t i = 0, n = 1 + Pick(12); i < n; ++i) {
      Entry entry = {Pick(3), {}, static_cast<int32_t>(Pick(5)) - 1};
      const uint32_t after = Pick(12);
      if (after < i && entries[after].phase == entry.phase && followed.insert(after).second) {
        entry.after = after;
      }
      entries.push_back(entry);
      model_.units.push_back({entry, false, "", 0});
    }
    return entries;
  }

  void Lease(const std::string& worker) {
    const auto next = model_.Next(worker);
    if (!next) return;
    ASSERT_EQ(table_.Lease(worker, ++epoch_), *next);
    Model::Unit& unit = model_.units[*next];
    unit.worker = worker;
    unit.epoch = epoch_;
    if (unit.entry.run != LeaseTable::kNoRun) model_.run_of[worker] = unit.entry.run;
    leases_.emplace_back(*next, epoch_);
  }

  void Report(bool receipt) {
    if (leases_.empty()) return;
    const auto [unit, lease] = leases_[Pick(static_cast<uint32_t>(leases_.size()))];
    Model::Unit& expected = model_.units[unit];
    const bool current = !expected.worker.empty() && expected.epoch == lease;
    if (receipt) {
      ASSERT_EQ(table_.Finish(unit, lease), expected.done ? Outcome::kDuplicate
                                            : current     ? Outcome::kDone
                                                          : Outcome::kStale);
      if (current) expected = {expected.entry, true, "", 0};
    } else {
      ASSERT_EQ(table_.GiveBack(unit, lease), current);
      if (current) expected.worker.clear();
    }
  }

  void Release(const std::string& worker) {
    std::vector<uint32_t> expected;
    model_.run_of.erase(worker);
    for (uint32_t i = 0; i < model_.units.size(); ++i) {
      if (model_.units[i].worker != worker) continue;
      expected.push_back(i);
      model_.units[i].worker.clear();
    }
    ASSERT_EQ(table_.Release(worker), expected);
  }

  void Reopen() {
    const uint32_t unit = Pick(table_.size());
    if (!model_.units[unit].done) return;
    std::vector<uint32_t> expected;
    std::set<uint32_t> closed = {unit};
    for (uint32_t i = 0; i < table_.size(); ++i) {
      Model::Unit& one = model_.units[i];
      if (one.entry.after && closed.contains(*one.entry.after)) closed.insert(i);
      if (!closed.contains(i)) continue;
      if (one.done) expected.push_back(i);
      one = {one.entry, false, "", 0};
    }
    ASSERT_EQ(table_.Reopen(unit), expected);
  }

  void Compare(const std::string& worker) {
    ASSERT_EQ(table_.Next(worker), model_.Next(worker));
    ASSERT_EQ(table_.phase(), model_.Phase());
    const auto count = [&](auto predicate) {
      return std::count_if(model_.units.begin(), model_.units.end(), predicate);
    };
    ASSERT_EQ(table_.done_count(), count([](const auto& unit) { return unit.done; }));
    ASSERT_EQ(table_.leased_count(), count([](const auto& u) { return !u.worker.empty(); }));
    ASSERT_EQ(table_.leased_count(worker),
              count([&](const auto& u) { return u.worker == worker; }));
  }

  std::mt19937 random_;
  Model model_;
  LeaseTable table_;
  uint64_t epoch_ = 0;
  std::vector<std::pair<uint32_t, uint64_t>> leases_;  // all ever given
};

TEST(LeaseTable, RandomHistoriesMatchThePlainModel) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    History history(seed);
    for (int step = 0; step < 400; ++step) {
      history.Step();
      ASSERT_FALSE(HasFatalFailure()) << "seed " << seed << " step " << step;
    }
  }
}

}  // namespace
}  // namespace octavo
