// The trainer's object. Its parts are defined by subject: trainer.cpp (pace, results), set_up.cpp (panels and who lies where),
// walk.cpp (batches), score.cpp (held-out losses), state.cpp (leaving, remembering, saving).
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <vector>

#include "index/permutation.h"
#include "train/panel.h"
#include "train/standardize.h"
#include "train/train.h"

namespace gradfold {

using Poll = std::function<void()>;

// Multiply-adds below which another thread costs more than it saves.
constexpr double kThreadWork = 1 << 21;

template <class T>
class TrainerOf final : public Trainer {
 public:
  explicit TrainerOf(TrainArgs<T> args);
  Status advance(std::int64_t max_steps, double seconds, const Poll& poll) override;
  std::int64_t steps_per_epoch() const override { return batches_; }
  void coef(void* out) const override;
  void intercept(void* out) const override;
  void steps(std::int64_t* out) const override;
  void finish(const bool* mask) override;
  void snapshot(const bool* mask) override;
  std::int64_t first_unremembered(const bool* mask) const override;
  void restore(const bool* mask) override;
  void scale_learning_rate(const double* factor) override;
  void train_loss(double* out, bool reset) override;
  std::vector<StateField> state_fields() const override;
  Progress state(const std::vector<void*>& out) override;

 private:
  // Where a column lies: in a lane of a block of training panel `panel`, or parked (its panel is -1).
  struct Home {
    std::int64_t panel = -1;
    int block = 0, lane = 0;
  };
  TrainBlock<T>& block_of(const Home& home) { return panels_[home.panel].blocks[home.block]; }
  const TrainBlock<T>& block_of(const Home& home) const { return panels_[home.panel].blocks[home.block]; }

  // ---- trainer.cpp
  Status advance_unguarded(std::int64_t max_steps, double seconds, const Poll& poll);
  void usable() const {
    if (failed_) throw std::runtime_error("this trainer failed before, so its weights are of no one step; make a new one");
  }
  // f(block, lane, column) for every column; a parked one is shown in a block of one lane.
  template <class F>
  void each_column(F&& f) const {
    if (!prepared_) return;
    show_averages();
    for (const TrainPanel<T>& panel : panels_)
      for (const TrainBlock<T>& block : panel.blocks)
        for (std::size_t l = 0; l < block.columns.size(); ++l) f(block, static_cast<int>(l), block.columns[l]);
    std::unique_ptr<TrainBlock<T>> shown;
    for (std::int64_t c = 0; c < n_columns_; ++c) {
      if (home_[c].panel >= 0) continue;
      if (!shown) shown = one_lane();
      unpack_lane(parked_[c], *shown, 0, p_);
      f(*shown, 0, c);
    }
  }
  // Of the state given to the constructor, while it waits to be used.
  template <class U>
  const U* saved(const char* name) const {
    if (!saved_) return nullptr;
    const auto found = saved_->arrays.find(name);
    return found == saved_->arrays.end() ? nullptr : reinterpret_cast<const U*>(found->second.data());
  }

  // ---- set_up.cpp
  bool prepare(const Poll& poll);
  void set_up();  // prepare() for callers that cannot be interrupted
  void use_moments(const Poll& poll);
  LayoutArgs layout_args() const;
  std::vector<std::int64_t> models_alive() const;
  using Tables = std::map<std::vector<std::int64_t>, std::shared_ptr<StandardizeTables>>;  // by the splits of a block's lanes
  std::vector<TrainPanel<T>> make_panels(const std::vector<PanelPlan>& plans) const;
  TrainBlock<T> make_block(std::vector<std::int64_t> columns, int n_vectors, int lanes, Tables& tables) const;
  AlignedArray<T> epsilon_of(const std::vector<std::int64_t>& models, int lanes) const;
  std::unique_ptr<TrainBlock<T>> one_lane() const;
  void start(TrainBlock<T>& block) const;
  void find_homes();
  void make_score_panels(const std::vector<PanelPlan>& plans);
  void compact();  // lays the panels out anew, if enough models have left since
  PanelState<T> state_of(const TrainBlock<T>& block) const;
  void show_averages() const;  // before results are read

  // ---- walk.cpp
  std::int64_t row_bytes() const { return p_ * static_cast<std::int64_t>(sizeof(T)); }
  std::int64_t staged_values(const Permutation* order, std::int64_t rows) const;
  void find_rows(const RowSource<T>& source, const Permutation* order, std::int64_t begin, std::int64_t n, RowBuffer<T>& rows) const;
  void stage_rows(std::int64_t n, RowBuffer<T>& rows) const;
  void load_rows(const RowSource<T>& source, const Permutation* order, std::int64_t begin, std::int64_t n, RowBuffer<T>& rows) const;
  RowSource<T> training_rows() const { return {a_.X, a_.y, a_.weight}; }
  PanelView<T> view(const TrainPanel<T>& panel) const;
  WidestOf<T> widest_of(const std::vector<const TrainPanel<T>*>& panels) const;
  WidestOf<T> widest() const;
  ChunkTask<T> chunk_task(const RowBuffer<T>& rows, std::int64_t at, std::int64_t n, const PanelView<T>& panel, bool gradient,
                          ChunkBuffer<T>& buffer, const T* const* later = nullptr) const;
  bool run_chunk(const RowBuffer<T>& rows, std::int64_t at, std::int64_t n, const PanelView<T>& panel, bool gradient,
                 ChunkBuffer<T>& buffer, bool* any, const T* const* later = nullptr) const;
  void step(TrainPanel<T>& panel, const BatchSums<T>& sums, const double* loss, const double* weight, T* replaced,
            std::int64_t epoch, std::int64_t batch);
  std::uint64_t step_outputs(TrainPanel<T>& panel, const BatchSums<T>& sums);
  bool run_batch(TrainPanel<T>& panel, const RowBuffer<T>& rows, std::int64_t at, std::int64_t epoch, std::int64_t batch,
                 ChunkBuffer<T>& chunk, const T* const* later = nullptr);
  void add_chunk(const TrainPanel<T>& panel, const ChunkBuffer<T>& chunk, BatchTotals& totals) const;
  void walk(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Poll& poll);
  int tile_threads(std::int64_t chunks) const;
  std::int64_t window_batches(std::int64_t bytes) const;
  int window_threads(std::int64_t n_batches, const Permutation* order, int n_threads);
  void walk_by_tile(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Permutation* order, int n_threads, const Poll& poll);
  void walk_by_panel(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Permutation* order, int n_threads, const Poll& poll);
  void walk_by_window(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Permutation* order, int n_threads, const Poll& poll);
  void walk_by_chunk(std::int64_t epoch, std::int64_t b0, std::int64_t b1, const Permutation* order, int n_threads, const Poll& poll);
  std::vector<std::vector<TrainPanel<T>*>> share_out(int n_threads);

  // ---- score.cpp
  bool score(const Poll& poll);
  RowSource<T> score_rows() const;
  void pack(const ScorePanel<T>& to, T* W, T* intercept) const;

  // ---- state.cpp
  LaneRecord record_of(std::int64_t column) const;
  void put_record(std::int64_t column, const LaneRecord& record);
  void collect_train_loss();
  void spread_train_loss();

  std::shared_ptr<const SavedState> saved_;  // until it is used; taken out of a_, so that it is freed then
  const TrainArgs<T> a_;
  const std::int64_t n_models_, n_outputs_, n_columns_, p_, n_, batches_;
  const bool natural_order_;
  const Level level_;  // picked once: a run never changes its level
  SolverSettings settings_{};
  std::vector<std::int64_t> used_splits_;
  SplitWeights weights_;
  std::vector<double> fraction_;  // per split: training rows among all rows
  SplitMoments moments_;
  bool averages_ = false;  // some model averages its weights
  bool prepared_ = false;
  bool abandoned_ = false;
  bool failed_ = false;
  bool torn_ = false;  // interrupted within an epoch: models are at batches of their own
  std::vector<TrainPanel<T>> panels_;
  std::vector<ScorePanel<T>> score_panels_;
  std::vector<Home> home_;          // of every column
  std::vector<LaneRecord> parked_;  // columns of models that have left the panels; empty for the others
  std::vector<LaneRecord> remembered_;  // snapshots; empty: none, and no entries before the first
  std::size_t n_planned_ = 0;       // models alive when compact() last looked
};

}  // namespace gradfold
