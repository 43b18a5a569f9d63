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

using Outcome = LeaseTable::Outcome;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(LeaseTable, LeasesLowestFirstAndPhaseAfterPhase) {
  const std::vector<uint32_t> phases = {1, 0, 0, 1};
  LeaseTable table(phases);
  EXPECT_EQ(table.Lease("a", 1), 1u);
  EXPECT_EQ(table.Lease("b", 2), 2u);
  EXPECT_EQ(table.Next(), std::nullopt);  // phase 1 waits for phase 0
  EXPECT_EQ(table.Finish(1, 1), Outcome::kDone);
  EXPECT_EQ(table.Next(), std::nullopt);
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
  const std::vector<uint32_t> phases = {0, 0};
  LeaseTable table(phases);
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
  const std::vector<uint32_t> phases = {0, 1};
  LeaseTable table(phases);
  table.MarkDone(0);
  EXPECT_EQ(table.Next(), 1u);
  table.Reopen(0);
  EXPECT_EQ(table.Next(), 0u);
  EXPECT_EQ(table.phase(), 0u);
  table.Lease("a", 1);
  EXPECT_EQ(table.Finish(0, 1), Outcome::kDone);
  EXPECT_EQ(table.Next(), 1u);
}

// A plain model of what the table must do, compared after every step of a random history.
struct Model {
  struct Unit {
    uint32_t phase;
    bool done = false;
    std::string worker;  // leased to
    uint64_t epoch = 0;
  };
  std::vector<Unit> units;
  uint32_t Phase() const {
    uint32_t phase = 0;
    for (const Unit& unit : units) phase = std::max(phase, unit.phase + 1);
    for (const Unit& unit : units) {
      if (!unit.done) phase = std::min(phase, unit.phase);
    }
    return phase;
  }
  std::optional<uint32_t> Next() const {
    for (uint32_t i = 0; i < units.size(); ++i) {
      if (!units[i].done && units[i].worker.empty() && units[i].phase == Phase()) return i;
    }
    return std::nullopt;
  }
};

// One random history, driven over table and model at once.
class History {
 public:
  explicit History(uint32_t seed) : random_(seed), table_(Phases()) {}

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

  std::vector<uint32_t> Phases() {
    std::vector<uint32_t> phases;
    for (uint32_t i = 0, n = 1 + Pick(12); i < n; ++i) {
      phases.push_back(Pick(3));
      model_.units.push_back({phases.back(), false, "", 0});
    }
    return phases;
  }

  void Lease(const std::string& worker) {
    const auto next = model_.Next();
    if (!next) return;
    ASSERT_EQ(table_.Lease(worker, ++epoch_), *next);
    model_.units[*next].worker = worker;
    model_.units[*next].epoch = epoch_;
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
      if (current) expected = {expected.phase, true, "", 0};
    } else {
      ASSERT_EQ(table_.GiveBack(unit, lease), current);
      if (current) expected.worker.clear();
    }
  }

  void Release(const std::string& worker) {
    std::vector<uint32_t> expected;
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
    table_.Reopen(unit);
    model_.units[unit].done = false;
  }

  void Compare(const std::string& worker) {
    ASSERT_EQ(table_.Next(), model_.Next());
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
