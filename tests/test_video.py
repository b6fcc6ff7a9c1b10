"""Frames of videos and webcams: order, times, turning, and what is missing."""

import fractions
import types

import cv2
import numpy as np
import pytest

from siamese_mrcnn_tf.search import sources, video
from siamese_mrcnn_tf.search.frames import iter_frames
from siamese_mrcnn_tf.search.sources import Source, find_sources
from siamese_mrcnn_tf.search.video import read_video, read_webcam

RATE = 10


def frame_of(number, height=48, width=80):
    """A dark frame with a bright column at 8 * number, and noise at the top, for files of some size."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = np.random.default_rng(number).integers(0, 255, (height // 2, width, 3))
    pixels[:, 8 * number : 8 * number + 8] = 255
    return pixels


def number_in(pixels):
    """The number of the frame that `frame_of` drew."""
    return int(pixels[-8:].sum(axis=(0, 2)).astype(int).reshape(-1, 8).sum(axis=1).argmax())


def write_video(path, times=range(10), *, codec="mpeg4"):
    """A video whose frame k is shown from the time times[k] on, in tenths of seconds."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, RATE)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(frame_of(number), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_every_frame_in_order_with_its_time(tmp_path):
    frames = list(read_video(write_video(tmp_path / "a.mp4")))
    assert [frame.number for frame in frames] == list(range(10))
    assert [number_in(frame.to_pixels()) for frame in frames] == list(range(10))
    assert [frame.seconds for frame in frames] == pytest.approx([number / 10 for number in range(10)])
    assert frames[0].to_pixels().shape == (48, 80, 3) and frames[0].to_pixels().dtype == np.uint8


def test_every_nth_frame_of_a_variable_rate(tmp_path):
    times = [0, 1, 2, 5, 9, 10, 11, 20, 21, 22]
    frames = list(read_video(write_video(tmp_path / "a.mp4", times), every=3))
    assert [frame.number for frame in frames] == [0, 3, 6, 9]
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.5, 1.1, 2.2])
    assert [number_in(frame.to_pixels()) for frame in frames] == [0, 3, 6, 9]


@pytest.mark.parametrize(("rotation", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))])
def test_frames_are_turned_as_the_file_says(tmp_path, rotation, matrix):
    path = write_video(tmp_path / "a.mp4")
    data, numbers = path.read_bytes(), {0: b"\0\0\0\0", 1: b"\0\1\0\0", -1: b"\xff\xff\0\0"}  # 16.16 bits
    upright, turned = (
        numbers[a] + numbers[b] + bytes(4) + numbers[c] + numbers[d] + bytes(12) + b"\x40\0\0\0"
        for a, b, c, d in ((1, 0, 0, 1), matrix)
    )
    place = data.index(upright, data.index(b"tkhd"))  # the matrix of the track
    path.write_bytes(data[:place] + turned + data[place + len(upright) :])
    pixels = next(read_video(path)).to_pixels()
    capture = cv2.VideoCapture(str(path))  # OpenCV obeys the same entry
    expected = capture.read()[1][..., ::-1]
    capture.release()
    assert pixels.shape == expected.shape == ((48, 80, 3) if rotation == 180 else (80, 48, 3))
    assert np.abs(pixels.astype(int) - expected).mean() < 2


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mjpeg"), ("a.mkv", "mpeg4")])
def test_a_truncated_video_gives_its_frames_and_says_so(tmp_path, name, codec):
    path = write_video(tmp_path / name, codec=codec)
    data = path.read_bytes()
    path.write_bytes(data[: 2 * len(data) // 3])
    frames, found = read_video(path), []
    with pytest.raises(ValueError, match=rf"{name}: the video (ends at 0\.\d+ s of 1\.00 s|has \d of 10 frames)"):
        while True:
            found.append(number_in(next(frames).to_pixels()))
    assert found == list(range(len(found))) and 2 < len(found) < 10


def test_what_is_no_video(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(ValueError, match=r"a\.mp4: not a video that can be read"):
        next(read_video(tmp_path / "a.mp4"))
    with pytest.raises(ValueError, match=r"b\.mp4: no such file"):
        next(read_video(tmp_path / "b.mp4"))


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "has_av", lambda: False)
    with pytest.raises(ValueError, match=r"a\.mp4: video files need pip install .*\[video\]"):
        next(read_video(tmp_path / "a.mp4"))
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"a\.mp4: video files need pip install"):
        find_sources([tmp_path / "a.mp4"])
    (tmp_path / "a.png").touch()
    monkeypatch.setattr(sources, "has_av", lambda: False)
    text = find_sources([tmp_path]).skipped_text()
    assert text == 'skipped 1 file: .mp4 1 (pip install "siamese-mrcnn-tf[video]" reads .mp4)'


def test_frames_of_a_search_have_names_ids_and_an_image_that_fails_at_the_end(tmp_path):
    path = write_video(tmp_path / "clip.avi", codec="mjpeg")
    path.write_bytes(path.read_bytes()[: 2 * path.stat().st_size // 3])
    frames = list(iter_frames([Source(str(path), "video", "clip")], lambda path: None, every=2, limit=3))
    assert [(one.image_id, one.name, one.frame) for one in frames[:2]] == [(1, "clip-000000", 0), (2, "clip-000002", 2)]
    *whole, last = iter_frames([Source(str(path), "video", "clip")], lambda path: None)
    assert [number_in(one.read()) for one in whole] == list(range(len(whole))) and 2 < len(whole) < 10
    assert (last.image_id, last.name, last.frame) == (len(whole) + 1, "clip", None)
    with pytest.raises(ValueError, match=r"clip\.avi: the video"):
        last.read()


class FakeCapture:
    """A webcam with five frames in OpenCV's order of colors."""

    def __init__(self, device):
        self.device, self.left, self.is_released = device, 5, False

    def isOpened(self):
        return self.device == 1

    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((4, 6, 3), (1, 2, 3), np.uint8)

    def release(self):
        self.is_released = True


def test_frames_of_a_webcam(monkeypatch):
    made = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda device: made.append(FakeCapture(device)) or made[-1])
    times = iter(range(100, 200))
    monkeypatch.setattr(video, "time", types.SimpleNamespace(monotonic=lambda: next(times)))
    frames = read_webcam(1, every=2)
    found = [next(frames), next(frames)]
    assert [(one.number, one.seconds) for one in found] == [(0, 0), (2, 2)]
    assert found[0].to_pixels()[0, 0].tolist() == [3, 2, 1]
    frames.close()
    assert made[0].is_released
    with pytest.raises(ValueError, match="webcam:1: gives no more frames after 5"):
        list(read_webcam(1))
    with pytest.raises(ValueError, match="webcam:0: cannot be opened"):
        next(read_webcam(0))
    *whole, last = iter_frames([Source("webcam:1", "webcam", "webcam-1")], lambda path: None)
    assert len(whole) == 5 and last.name == "webcam-1"
    with pytest.raises(ValueError, match="gives no more frames"):
        last.read()
    with pytest.raises(ValueError, match="webcam:0: cannot be opened"):
        next(iter_frames([Source("webcam:0", "webcam", "webcam-0")], lambda path: None))
    limited = iter_frames([Source("webcam:1", "webcam", "webcam-1")], lambda path: None, limit=3)
    assert [one.name for one in limited] == ["webcam-1-000000", "webcam-1-000001", "webcam-1-000002"]
