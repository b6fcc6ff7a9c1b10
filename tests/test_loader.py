"""Batches made ahead: the right samples in the right order, whoever makes them, and errors that name their image."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time

import keras
import numpy as np
import pytest
import toy

from siamese_mrcnn_tf.data import augmentation
from siamese_mrcnn_tf.data.data_generator import INPUT_NAMES, TrainingSamples, collate
from siamese_mrcnn_tf.data.loader import SampleLoader
from siamese_mrcnn_tf.io.processes import WorkerThreads
from siamese_mrcnn_tf.training.batches import TrainingBatches


def toy_loader(samples=None, **options):
    return SampleLoader(samples or toy.Numbers(), toy.CONFIG, collate=toy.collate, **options)


def numbers_of(batch):
    return batch["input_x"][:, 0].tolist()


@pytest.fixture(scope="module")
def samples(training_parts, micro_config):
    return TrainingSamples(training_parts[0], micro_config, seed=3, augmentation=augmentation.fliplr())


@pytest.mark.parametrize(("workers", "processes"), [(1, False), (3, False), (2, True)])
def test_batches_are_those_of_the_samples(samples, micro_config, workers, processes):
    with SampleLoader(samples, micro_config, workers=workers, processes=processes) as loader:
        for step in (0, 1, 4, 5):
            found = loader.batch(step)
            expected = collate([samples[number] for number in (2 * step, 2 * step + 1)], micro_config)
            assert list(found) == list(expected) == list(INPUT_NAMES)
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name], values, err_msg=f"batch {step}, {name}")
            references = [samples.dataset.image_reference(samples.image_of(2 * step + place)) for place in (0, 1)]
            assert loader.images(step) == references
    assert len({samples.image_of(number) for number in range(12)}) == 5  # all images, in more than one pass


def test_the_workers_of_processes_do_not_import_keras():
    """It takes them seconds and half a gigabyte each."""
    with toy_loader(toy.Modules(), workers=1, processes=True) as loader:
        assert loader.batch(0)["input_x"].tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("workers", [1, 3])
def test_any_order_of_asking(workers):
    with toy_loader(workers=workers) as loader:
        for step in (0, 0, 1, 7, 8, 8, 2, 3, 30, 0):
            assert numbers_of(loader.batch(step)) == [2 * step, 2 * step + 1]


def test_samples_are_made_ahead_and_once():
    samples = toy.Numbers()
    with toy_loader(samples, workers=1) as loader:
        loader.batch(0)
        loader._pending[5].result()
        assert samples.made == [0, 1, 2, 3, 4, 5]
        for step in (0, 1, 2):
            loader.batch(step)
        loader._pending[9].result()
        assert samples.made == list(range(10))
        assert set(loader._pending) == set(range(10))
        loader.batch(4)
        assert min(loader._pending) == 4  # what is long past is let go


def test_another_batch_size():
    with toy_loader(batch_size=3) as loader:
        assert numbers_of(loader.batch(2)) == [6, 7, 8]
        assert loader.images(2) == ["toy/6.png", "toy/0.png", "toy/1.png"]


@pytest.mark.parametrize("processes", [False, True])
def test_a_sample_that_cannot_be_made_is_named_and_kept(processes):
    with toy_loader(toy.Numbers(broken=(5, 8)), workers=2, processes=processes) as loader:
        assert numbers_of(loader.batch(1)) == [2, 3] and loader.failure is None  # the broken one is begun already
        with pytest.raises(RuntimeError, match="training sample 5, image toy/5.png: cut off"):
            loader.batch(2)
        first = loader.failure
        assert "sample 5" in str(first) and ("in __getitem__" in str(getattr(first, "__notes__", ""))) == processes
        assert numbers_of(loader.batch(3)) == [6, 7]
        with pytest.raises(RuntimeError, match="training sample 5"):
            loader.batch(4)
        assert loader.failure is first


def test_the_error_of_a_broken_image_names_it(training_tree, tmp_path, micro_config):
    import shutil

    import coco_tree

    shutil.copytree(training_tree, tmp_path / "set")
    dataset = coco_tree.load(tmp_path / "set", subset="train")
    samples = TrainingSamples(dataset, micro_config)
    path = dataset.image_info[samples.image_of(3)]["path"]
    with open(path, "r+b") as file:
        file.truncate(400)
    with SampleLoader(samples, micro_config, workers=2) as loader, pytest.raises(RuntimeError, match=str(path)):
        for step in range(4):
            loader.batch(step)


def test_closing_ends_the_threads():
    before = set(threading.enumerate())
    loader = toy_loader(workers=3)
    loader.batch(0)
    mine = set(threading.enumerate()) - before
    assert mine
    loader.close()
    for thread in mine:
        thread.join(60)
    assert not any(thread.is_alive() for thread in mine)
    with pytest.raises(RuntimeError, match="after shutdown"):
        loader.batch(9)


def test_what_is_submitted_while_threads_close_is_refused_or_dropped():
    """A call that nobody makes would be waited for."""
    for _ in range(50):
        workers, futures = WorkerThreads(2), []
        closing = threading.Thread(target=workers.close)
        closing.start()
        with contextlib.suppress(RuntimeError):
            while True:
                futures.append(workers.submit(int))
        closing.join()
        assert all(future.done() for future in futures)


def test_closing_ends_the_processes():
    loader = toy_loader(workers=2, processes=True)
    loader.batch(0)
    mine = multiprocessing.active_children()
    assert mine
    loader.close()
    for process in mine:
        process.join(60)
    assert not any(process.is_alive() for process in mine)


def test_an_interrupt_leaves_the_processes_at_work():
    """Ctrl-C reaches all processes of a terminal; what is to be done is for the run to say."""
    with toy_loader(workers=2, processes=True) as loader:
        loader.batch(0)
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGINT)
        for step in range(1, 5):
            assert numbers_of(loader.batch(step)) == [2 * step, 2 * step + 1]


@pytest.mark.parametrize("samples", [toy.Numbers(), toy.Large()])
def test_a_process_that_the_system_kills_is_named(samples):
    """Also in the middle of handing over a sample."""
    with toy_loader(samples, workers=2, processes=True) as loader:
        loader.batch(0)
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)
        killed = (
            r"training sample \d+, image toy/\d.png: worker process \d+ was killed by SIGKILL, perhaps for lack of m"
        )
        with pytest.raises(RuntimeError, match=killed):
            for step in range(1, 20):
                loader.batch(step)
    assert loader.failure is not None


@pytest.mark.parametrize("processes", [False, True])
def test_a_sample_that_never_comes_is_named(processes, monkeypatch):
    """Closing the loader does not wait for it either."""
    monkeypatch.setattr("siamese_mrcnn_tf.io.processes._ENDING", 0.1)
    with toy_loader(toy.Numbers(endless=(3,)), workers=1, processes=processes, timeout=30) as loader:
        loader.batch(0)
        loader._timeout = 0.1
        with pytest.raises(RuntimeError, match=r"training sample 3, image toy/3.png: nothing came within 0.1 s"):
            loader.batch(1)


@pytest.mark.parametrize("seconds", [0.01, 0.03, 0.1])
def test_processes_that_are_ended_hand_their_samples_over(seconds):
    """Cut off in the middle of one, they would leave the loader waiting for the rest of it."""
    loader = toy_loader(toy.Large(), workers=2, processes=True)
    loader.batch(0)  # the next are begun
    processes = multiprocessing.active_children()
    time.sleep(seconds)
    for process in processes:
        process.terminate()
    closing = threading.Thread(target=loader.close, daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive() and not any(process.is_alive() for process in processes)


class Recorder(keras.callbacks.Callback):
    """Keeps the mean number of each batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(logs["number"]))

    on_test_batch_begin, on_test_batch_end = on_train_batch_begin, on_train_batch_end


@pytest.fixture(scope="module")
def model():
    model, _ = toy.build_model()
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    return model


@pytest.mark.parametrize("processes", [False, True])
def test_fit_gets_the_batches_in_their_order(model, processes):
    with toy_loader(workers=3 - processes, processes=processes) as loader:
        recorder = Recorder()
        batches = TrainingBatches(loader, first_step=4, num_batches=7)
        assert batches.num_batches == 7
        model.fit(batches, shuffle=False, verbose=0, callbacks=[recorder])
        assert recorder.seen == [2 * step + 0.5 for step in range(4, 11)]


def test_one_loader_serves_one_validation_after_the_other(model):
    """With fewer batches than are made ahead."""
    with toy_loader(workers=2) as loader:
        for _ in range(3):
            recorder = Recorder()
            model.evaluate(TrainingBatches(loader, num_batches=1), verbose=0, callbacks=[recorder])
            assert recorder.seen == [0.5]
    assert loader.failure is None
