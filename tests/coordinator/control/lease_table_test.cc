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

TEST(LeaseTable, RandomHistoriesMatchThePlainModel) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    auto pick = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    Model model;
    std::vector<uint32_t> phases;
    for (uint32_t i = 0, n = 1 + pick(12); i < n; ++i) {
      phases.push_back(pick(3));
      model.units.push_back({phases.back(), false, "", 0});
    }
    LeaseTable table(phases);
    uint64_t epoch = 0;
    std::vector<std::pair<uint32_t, uint64_t>> leases;  // all ever given
    for (int step = 0; step < 400; ++step) {
      const std::string worker(1, static_cast<char>('a' + pick(4)));
      switch (pick(8)) {
        case 0:
        case 1:
        case 2:
          if (const auto next = model.Next()) {
            ASSERT_EQ(table.Lease(worker, ++epoch), *next);
            model.units[*next].worker = worker;
            model.units[*next].epoch = epoch;
            leases.emplace_back(*next, epoch);
          }
          break;
        case 3:
        case 4:
          if (!leases.empty()) {  // any receipt, current or old
            const auto [unit, lease] = leases[pick(static_cast<uint32_t>(leases.size()))];
            Model::Unit& expected = model.units[unit];
            const bool current = !expected.worker.empty() && expected.epoch == lease;
            ASSERT_EQ(table.Finish(unit, lease), expected.done ? Outcome::kDuplicate
                                                 : current     ? Outcome::kDone
                                                               : Outcome::kStale);
            if (current) expected = {expected.phase, true, "", 0};
          }
          break;
        case 5:
          if (!leases.empty()) {
            const auto [unit, lease] = leases[pick(static_cast<uint32_t>(leases.size()))];
            Model::Unit& expected = model.units[unit];
            const bool current = !expected.worker.empty() && expected.epoch == lease;
            ASSERT_EQ(table.GiveBack(unit, lease), current);
            if (current) expected.worker.clear();
          }
          break;
        case 6: {
          std::vector<uint32_t> expected;
          for (uint32_t i = 0; i < model.units.size(); ++i) {
            if (model.units[i].worker != worker) continue;
            expected.push_back(i);
            model.units[i].worker.clear();
          }
          ASSERT_EQ(table.Release(worker), expected);
          break;
        }
        case 7: {
          const uint32_t unit = pick(table.size());
          if (pick(4) == 0 && model.units[unit].done) {
            table.Reopen(unit);
            model.units[unit].done = false;
          }
          break;
        }
      }
      ASSERT_EQ(table.Next(), model.Next()) << "seed " << seed << " step " << step;
      ASSERT_EQ(table.phase(), model.Phase());
      const auto count = [&](auto predicate) {
        return std::count_if(model.units.begin(), model.units.end(), predicate);
      };
      ASSERT_EQ(table.done_count(), count([](const auto& unit) { return unit.done; }));
      ASSERT_EQ(table.leased_count(), count([](const auto& u) { return !u.worker.empty(); }));
      ASSERT_EQ(table.leased_count(worker),
                count([&](const auto& u) { return u.worker == worker; }));
    }
  }
}

}  // namespace
}  // namespace octavo
